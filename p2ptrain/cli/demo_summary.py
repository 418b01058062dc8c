"""The demo's last words."""

from collections.abc import Iterable, Sequence

from p2ptrain.dashboard.projection import SwarmView
from p2ptrain.ids import COMMON, PeerId, SliceId, short
from p2ptrain.node.demo_results import DemoReport, ModelResults
from p2ptrain.node.demo_swarm import SliceAnswer

_LABEL_WIDTH = 18


def summary_lines(
    report: DemoReport, view: SwarmView, model: ModelResults | None, failures: Sequence[str]
) -> list[str]:
    """What happened, as lines of plain text; the verdict comes last, where people look."""
    lines = ["", *_model_lines(report, model)]
    lines += [_line(_slice_name(one.id), _slice_text(one)) for one in report.slices]
    lines.append(_line("rounds", f"{report.rounds_committed} committed, {report.rounds_void} void"))
    if report.killed is not None:
        killed = report.killed
        where = f"{_slice_name(killed.slice)} v{killed.version}"
        lines.append(_line("killed", f"{view.name_of(killed.peer)} with SIGKILL while {killed.stage} {where}"))
        replaced = "not within the time"
        if report.replaced_after_s is not None:
            replaced = f"first contribution of its replacement {report.replaced_after_s:.1f} s after the kill"
        lines.append(_line("replaced", replaced))
    sent = ", ".join(f"{view.name_of(peer)} {sent / 1e6:.1f} MB" for peer, sent in report.bytes_sent_per_peer.items())
    lines.append(_line("sent", sent or "nothing"))
    if model is not None:
        lines.append(_line("model", str(model.export_path)))
        lines += ["", "The model continues:", *(f"    {line}" for line in _printable(model.sample))]
    lines += ["", *failures, f"{'failed' if failures else 'all as promised'}, in {report.seconds:.0f} s"]
    return lines


def _model_lines(report: DemoReport, model: ModelResults | None) -> Iterable[str]:
    if model is not None:
        first, last = model.val_loss_first, model.val_loss_last
        fall = f"{(1 - last / first):.0%} less"
        yield _line("validation loss", f"{first:.3f} with initial weights, {last:.3f} nats/byte trained: {fall}")


def _slice_text(one: SliceAnswer) -> str:
    by_digest: dict[str, list[PeerId]] = {}
    for peer, digest in one.digests.items():
        by_digest.setdefault(short(digest), []).append(peer)
    if one.all_agree:
        return f"v{one.version}, digest {next(iter(by_digest))} on all {len(one.owners)} owners"
    having = ", ".join(f"{digest} on {len(peers)}" for digest, peers in by_digest.items()) or "none"
    return f"v{one.version}, digests: {having} of {len(one.owners)} owners"


def _slice_name(slice_id: SliceId) -> str:
    return "common part" if slice_id == COMMON else f"slice {slice_id}"


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}}{text}"


def _printable(sample: bytes) -> list[str]:
    """Lines that cannot move the cursor: a model of bytes may say anything."""
    text = sample.decode("utf-8", errors="replace").expandtabs(4)
    return [
        "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
        for line in text.splitlines()
    ]
