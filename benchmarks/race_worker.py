"""One of the peers of a baseline in ``race.py``: the same model, batches and validation as p2ptrain's own peers.

Prints a JSON line for each validation: seconds since all peers were there, inner steps, loss.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from p2ptrain.config.load import load_run
from p2ptrain.config.schema import EngineConfig, RunConfig
from p2ptrain.data.corpus import Corpus, load_corpus
from p2ptrain.data.sampler import training_windows
from p2ptrain.ids import PeerId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer
from p2ptrain.node.trainer import EVALUATION_WINDOWS
from p2ptrain.training.engine import engine_transformer
from p2ptrain.training.evaluation import validation_loss
from p2ptrain.training.inner_loop import learning_rate


class Loss(nn.Module):
    """The model as DistributedDataParallel wants it: ``forward`` gives the loss."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: Tensor) -> Tensor:
        """Mean cross entropy of windows [B, T+1]."""
        return self.model.loss(windows)


class Student:
    """What every baseline trains."""

    def __init__(self, run: RunConfig, corpus: Corpus, name: str, batch: int) -> None:
        plan = SlicePlan.of(run.model, run.slicing)
        self.run, self.corpus, self.name, self.batch = run, corpus, PeerId(name), batch
        self.model = engine_transformer(run.model, plan, frozenset(plan.slice_ids), EngineConfig())
        self.model.load(initial_values(run, plan))
        self.parameters = self.model.owned_parameters()
        self.started_s = time.monotonic()

    def windows(self, step: int) -> Tensor:
        """The step's batch."""
        length, seed = self.run.model.context, self.run.seed
        return torch.from_numpy(
            training_windows(
                self.corpus.train,
                seed=seed,
                peer=self.name,
                round=Version(0),
                inner_step=step,
                batch=self.batch,
                length=length,
            )
        )

    def adamw(self, parameters: object) -> torch.optim.AdamW:
        """The inner optimizer of the manifest."""
        inner = self.run.inner
        return torch.optim.AdamW(
            parameters,
            lr=inner.lr,
            betas=(inner.beta1, inner.beta2),
            weight_decay=inner.weight_decay,  # type: ignore[arg-type]
        )

    def evaluate(self, step: int) -> None:
        """Print the validation loss."""
        loss = validation_loss(self.model, self.corpus, EVALUATION_WINDOWS)
        print(json.dumps({"seconds": time.monotonic() - self.started_s, "step": step, "loss_nats": loss}), flush=True)


def train(student: Student, step: Callable[[int, float], None], *, scale: float, every: int) -> None:
    """Steps with the manifest's learning rates times ``scale``, for as many as it would have peers take."""
    student.started_s = time.monotonic()
    for done in range(student.run.rounds * student.run.inner.steps):
        if done % every == 0:
            student.evaluate(done)
        step(done, scale * learning_rate(student.run, done))


def ddp(arguments: argparse.Namespace, student: Student) -> None:
    """DistributedDataParallel over gloo, gradients sent in float16."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
    from torch.nn.parallel import DistributedDataParallel

    os.environ |= {"MASTER_ADDR": arguments.master, "MASTER_PORT": "29555", "GLOO_SOCKET_IFNAME": arguments.interface}
    dist.init_process_group("gloo", rank=arguments.rank, world_size=arguments.peers)
    module = DistributedDataParallel(Loss(student.model))
    module.register_comm_hook(None, fp16_compress_hook)
    optimizer = student.adamw(student.parameters)

    def step(number: int, lr: float) -> None:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        module(student.windows(number)).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters, student.run.inner.clip)
        optimizer.step()

    train(student, step, scale=arguments.lr_scale, every=arguments.every)


def hivemind_optimizer(arguments: argparse.Namespace, student: Student) -> None:
    """hivemind.Optimizer with local updates and averaging of the state in the background, in float16."""
    import hivemind
    from hivemind.compression import Float16Compression

    peers = [arguments.bootstrap] if arguments.bootstrap else []
    dht = hivemind.DHT(
        initial_peers=peers,
        start=True,
        host_maddrs=[f"/ip4/{arguments.address}/tcp/31400"],
        announce_maddrs=[f"/ip4/{arguments.address}/tcp/31400"],
        nat_port_map=False,
        auto_nat=False,
        use_relay=False,
        identity_path=None,
    )
    if arguments.rank == 0:
        Path(arguments.address_file).write_text(str(dht.get_visible_maddrs()[0]))
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="race",
        params=student.parameters,
        optimizer=student.adamw,
        batch_size_per_step=student.batch,
        target_batch_size=student.batch * arguments.peers * arguments.local_steps,
        use_local_updates=True,
        delay_state_averaging=True,
        matchmaking_time=arguments.matchmaking_s,
        averaging_timeout=60,
        state_averaging_compression=Float16Compression(),
        averager_opts={"request_timeout": arguments.matchmaking_s / 2, "target_group_size": arguments.peers},
        tracker_opts={"min_refresh_period": 0.2, "default_refresh_period": 1.0},
    )

    def step(number: int, lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        student.model.loss(student.windows(number)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters, student.run.inner.clip)
        optimizer.step()

    time.sleep(arguments.settle_s)
    train(student, step, scale=arguments.lr_scale, every=arguments.every)


def main() -> None:
    """Train until the target is reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["ddp", "hivemind"])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr-scale", type=float, default=1.0)
    parser.add_argument("--every", type=int, default=5, help="steps between validations")
    parser.add_argument("--master", default="127.0.0.1")
    parser.add_argument("--interface", default="lo")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--address-file", default="")
    parser.add_argument("--local-steps", type=int, default=20)
    parser.add_argument("--matchmaking-s", type=float, default=3.0)
    parser.add_argument("--settle-s", type=float, default=5.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(arguments.run)
    corpus = load_corpus(run.data, base=arguments.run.parent)
    student = Student(run, corpus, f"race-{arguments.rank}", arguments.batch)
    {"ddp": ddp, "hivemind": hivemind_optimizer}[arguments.kind](arguments, student)
    os._exit(0)  # neither gloo nor hivemind ends while others go on


if __name__ == "__main__":
    main()
