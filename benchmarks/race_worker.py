"""One of the peers of a baseline in ``race.py``: the same model, batches and validation as p2ptrain's own peers.

All of them begin at the same moment, when each has met the others. Prints a JSON line for each validation: seconds
since then, inner steps, loss.
"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
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

POWER_SGD_RANK = 4
"""Of torch's documentation: 1 to 4 is a good start."""
POWER_SGD_START = 2
"""Optimizer steps that send whole gradients: the fewest that torch takes."""


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

    def __init__(self, run: RunConfig, corpus: Corpus, arguments: argparse.Namespace) -> None:
        plan = SlicePlan.of(run.model, run.slicing)
        self.run, self.corpus, self.arguments = run, corpus, arguments
        self.model = engine_transformer(run.model, plan, frozenset(plan.slice_ids), EngineConfig())
        self.model.load(initial_values(run, plan))
        self.parameters = self.model.owned_parameters()
        self._started_s = time.monotonic()

    def windows(self, step: int) -> Tensor:
        """The inner step's batch."""
        return torch.from_numpy(
            training_windows(
                self.corpus.train,
                seed=self.run.seed,
                peer=PeerId(f"race-{self.arguments.rank}"),
                round=Version(0),
                inner_step=step,
                batch=self.run.inner.batch,
                length=self.run.model.context,
            )
        )

    def adamw(self, parameters: Iterable[Tensor]) -> torch.optim.AdamW:
        """The inner optimizer of the manifest."""
        inner = self.run.inner
        return torch.optim.AdamW(
            parameters, lr=inner.lr, betas=(inner.beta1, inner.beta2), weight_decay=inner.weight_decay
        )

    def clip(self) -> None:
        """Clip the gradients as the manifest says."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.run.inner.clip)

    def wait_for_all(self) -> None:
        """Return when all peers are here; time counts from then."""
        folder: Path = self.arguments.folder
        (folder / f"ready-{self.arguments.rank}").touch()
        while len(list(folder.glob("ready-*"))) < self.arguments.peers:
            time.sleep(0.02)
        self._started_s = time.monotonic()

    def evaluate(self, step: int) -> None:
        """Print the validation loss."""
        loss = validation_loss(self.model, self.corpus, EVALUATION_WINDOWS)
        print(json.dumps({"seconds": time.monotonic() - self._started_s, "step": step, "loss_nats": loss}), flush=True)

    def train(self, step: Callable[[int, float], None]) -> None:
        """Optimizer steps with the schedule's learning rates times ``--lr-scale``, until killed."""
        self.wait_for_all()
        done = 0
        while True:
            if done % self.arguments.every == 0:
                self.evaluate(done)
            step(done, self.arguments.lr_scale * learning_rate(self.run, done))
            done += 1


def ddp(arguments: argparse.Namespace, student: Student) -> None:
    """DistributedDataParallel over gloo; gradients in float16, or as PowerSGD's factors."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
    from torch.nn.parallel import DistributedDataParallel

    os.environ |= {"MASTER_ADDR": arguments.master, "MASTER_PORT": "29555", "GLOO_SOCKET_IFNAME": arguments.interface}
    dist.init_process_group("gloo", rank=arguments.rank, world_size=arguments.peers)
    # PowerSGD waits for one all-reduce in the callback of another. gloo has two threads, so with two buckets under way
    # both wait for ever: all gradients in one bucket.
    bucket_mb = 1024 if arguments.kind == "powersgd" else None
    module = DistributedDataParallel(Loss(student.model), bucket_cap_mb=bucket_mb)
    if arguments.kind == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            process_group=None, matrix_approximation_rank=POWER_SGD_RANK, start_powerSGD_iter=POWER_SGD_START
        )
        module.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    else:
        module.register_comm_hook(None, default_hooks.fp16_compress_hook)
    optimizer = student.adamw(student.parameters)

    def step(number: int, lr: float) -> None:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        for part in range(arguments.accumulate):
            is_last = part == arguments.accumulate - 1
            with contextlib.nullcontext() if is_last else module.no_sync():
                loss = module(student.windows(number * arguments.accumulate + part)) / arguments.accumulate
                loss.backward()
        student.clip()
        optimizer.step()

    student.train(step)


def hivemind_optimizer(arguments: argparse.Namespace, student: Student) -> None:
    """hivemind.Optimizer with local updates and averaging of parameters, in float16.

    The alternatives among its options lose here: without local updates it is DDP with ``--accumulate``, and 8-bit
    compression does not decode with numpy 2.4.
    """
    import hivemind
    from hivemind.compression import Float16Compression

    dht = hivemind.DHT(
        initial_peers=[arguments.bootstrap] if arguments.bootstrap else [],
        start=True,
        host_maddrs=[f"/ip4/{arguments.address}/tcp/31400"],
        announce_maddrs=[f"/ip4/{arguments.address}/tcp/31400"],
        nat_port_map=False,
        auto_nat=False,
        use_relay=False,
        identity_path=None,
    )
    if arguments.rank == 0:
        (arguments.folder / "address.new").write_text(str(dht.get_visible_maddrs()[0]))
        (arguments.folder / "address.new").rename(arguments.folder / "address")
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="race",
        params=student.parameters,
        optimizer=student.adamw,
        batch_size_per_step=student.run.inner.batch,
        target_batch_size=student.run.inner.batch * arguments.peers * arguments.local_steps,
        use_local_updates=True,
        delay_state_averaging=arguments.delay,
        matchmaking_time=arguments.matchmaking_s,
        averaging_timeout=60,
        state_averaging_compression=Float16Compression(),
        load_state_compression=Float16Compression(),
        averager_opts={"request_timeout": arguments.matchmaking_s / 2, "target_group_size": arguments.peers},
        tracker_opts={"min_refresh_period": 0.2, "default_refresh_period": 1.0},
        verbose=True,
    )

    def step(number: int, lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        student.model.loss(student.windows(number)).backward()  # type: ignore[no-untyped-call]
        student.clip()
        optimizer.step()

    student.train(step)


def main() -> None:
    """Train until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["ddp", "powersgd", "hivemind"])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="that all peers of the race see")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--lr-scale", type=float, default=1.0)
    parser.add_argument("--warm-up", type=int, help="optimizer steps, in place of the manifest's")
    parser.add_argument("--every", type=int, default=5, help="optimizer steps between validations")
    parser.add_argument("--master", default="127.0.0.1")
    parser.add_argument("--interface", default="lo")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--accumulate", type=int, default=1, help="ddp: batches for one optimizer step")
    parser.add_argument("--local-steps", type=int, default=20, help="hivemind: inner steps between two averagings")
    parser.add_argument("--delay", action="store_true", help="hivemind: average in the background")
    parser.add_argument("--matchmaking-s", type=float, default=3.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(arguments.run)
    if arguments.warm_up is not None:
        run = replace(run, inner=replace(run.inner, warmup_steps=arguments.warm_up))
    student = Student(run, load_corpus(run, base=arguments.run.parent), arguments)
    {"ddp": ddp, "powersgd": ddp, "hivemind": hivemind_optimizer}[arguments.kind](arguments, student)


if __name__ == "__main__":
    main()
