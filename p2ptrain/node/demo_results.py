"""What the demo found out, whether that is what it promises, and the trained model."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from p2ptrain.ids import PeerId, SliceId, Version
from p2ptrain.node.demo_strike import Strike
from p2ptrain.node.demo_swarm import SliceAnswer

_WINDOWS = 256
"""32768 tokens, which take 1.6 s on one core."""
_PROMPT = b"def "
_SAMPLE_BYTES = 400
_TEMPERATURE = 0.7
_FALL = 1 / 3
"""Share of the initial loss that must be gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelResults:
    """The model before and after."""

    val_loss_first: float
    """Nats per byte, initial weights."""
    val_loss_last: float
    """The same windows, trained weights."""
    sample: bytes
    """The prompt and what the model adds to it."""
    export_path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Killed:
    """Who was killed, and in the middle of what."""

    peer: PeerId
    slice: SliceId
    version: Version
    """The version that the round would have committed with the victim."""
    stage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """The demo's outcome; None is what was not measured because the demo did not get that far."""

    rounds_committed: int
    """Over all slices."""
    rounds_void: int
    val_loss_first: float | None
    val_loss_last: float | None
    slices: Sequence[SliceAnswer]
    killed: Killed | None
    replaced_after_s: float | None
    """From the kill to the first committed round with the replacement's contribution."""
    bytes_sent_per_peer: Mapping[PeerId, int]
    export_path: str | None
    seconds: float
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON's types."""
        slices = [
            {"id": one.id, "version": one.version, "owners": list(one.owners), "digests": dict(one.digests)}
            for one in self.slices
        ]
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        killed = None if self.killed is None else asdict(self.killed)
        return plain | {
            "slices": slices,
            "killed": killed,
            "bytes_sent_per_peer": dict(self.bytes_sent_per_peer),
            "versions": dict(self.versions),
        }


def failed_promises(report: DemoReport, strike: Strike, slices: Sequence[SliceId]) -> list[str]:
    """One sentence for each thing that the demo promises and did not show; none means success."""
    failed = []
    first, last = report.val_loss_first, report.val_loss_last
    if first is None or last is None:
        failed.append("The trained model could not be evaluated.")
    elif not last <= first * (1 - _FALL):
        failed.append(f"The validation loss fell from {first:.3f} to {last:.3f} nats/byte only, by less than a third.")
    if report.killed is None:
        failed.append("No peer was killed: none was seen in the middle of averaging before the time was over.")
    elif not strike.committed_after:
        failed.append(f"No round of slice {report.killed.slice} was committed after {strike.victim} was killed.")
    answered = {one.id: one for one in report.slices}
    for slice_id in slices:
        one = answered.get(slice_id)
        if one is None or not one.owners:
            failed.append(f"Slice {slice_id} has no owner at the end.")
        elif not one.all_agree:
            failed.append(
                f"Not all {len(one.owners)} owners of slice {slice_id} have the same digest of version {one.version}."
            )
    return failed


def evaluate(manifest: Path, home: Path, out: Path) -> ModelResults:
    """Measure, export and try the model that a stopped peer has saved in ``home``.

    Raises:
        P2PTrainError: the home has no usable checkpoint, or ``out`` is not free.
    """
    # Here, because watching a swarm needs no torch, and importing it takes a core for 2 s.
    import torch

    from p2ptrain.config.load import load_run
    from p2ptrain.data.corpus import load_corpus
    from p2ptrain.data.tokenizer import ByteTokenizer
    from p2ptrain.model.export import export_model
    from p2ptrain.model.generation import generate
    from p2ptrain.model.initial_weights import initial_values
    from p2ptrain.model.slicing import SlicePlan
    from p2ptrain.model.transformer import Transformer
    from p2ptrain.node.home import Home
    from p2ptrain.node.trained_model import load_trained
    from p2ptrain.training.evaluation import validation_loss

    # Beside another busy process on 2 cores, torch's two threads wait for each other: 137 s were measured instead of 6.
    torch.set_num_threads(1)
    run = load_run(manifest)
    corpus = load_corpus(run, manifest.parent)
    plan = SlicePlan.of(run.model, run.slicing)
    untrained = Transformer(run.model, plan, frozenset())
    for slice_id, values in initial_values(run, plan).items():
        plan.scatter(untrained.tensors(), slice_id, values)
    trained = load_trained(Home.inspect(home))
    text = ByteTokenizer()
    added = generate(
        trained, text.encode_prompt(_PROMPT), _SAMPLE_BYTES, _TEMPERATURE, run.seed, vocabulary=text.vocabulary
    )
    return ModelResults(
        val_loss_first=validation_loss(untrained, corpus, _WINDOWS),
        val_loss_last=validation_loss(trained, corpus, _WINDOWS),
        sample=_PROMPT + b"".join(text.decode(added)),
        export_path=export_model(run.model, trained.tensors(), out),
    )


def versions() -> dict[str, str]:
    """What was run, as installed."""
    packages = {name: version(name) for name in ("p2ptrain", "torch", "hivemind")}
    return {**packages, "python": platform.python_version(), "platform": platform.platform()}
