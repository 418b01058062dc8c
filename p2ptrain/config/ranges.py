"""Which values a manifest may have: one rule a key, and rules between keys.

``schema`` says what exists and of which type; this table says what makes sense. How tensors must divide among slices
is said by ``model.slicing``, which knows the tensors.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from p2ptrain.config.hours import EXAMPLE, Hours
from p2ptrain.config.schema import RunConfig


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must satisfy, and the words that follow ``choose`` when it does not."""

    holds: Callable[[Any], bool]
    choose: str


_COUNT = Rule(lambda value: value >= 1, "a whole number of at least 1")
_COUNT_FROM_0 = Rule(lambda value: value >= 0, "0 or more")
_POSITIVE = Rule(lambda value: value > 0, "a number above 0")
_LR = Rule(lambda value: 0 < value <= 100, "a number above 0, at most 100")
_SECONDS = Rule(lambda value: 0 < value <= 86400, "seconds above 0, at most 86400")
_DECAY = Rule(lambda value: 0 <= value < 1, "a number from 0 up to, but not including, 1")
_SEED = Rule(lambda value: 0 <= value < 2**63, "a whole number from 0 to 2**63 - 1")
_NAME = Rule(
    lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) is not None,
    'up to 64 letters, digits, ".", "_" or "-", beginning with a letter or digit',
)
_PRINTABLE = Rule(str.isprintable, "printable characters only")
_FINGERPRINT = Rule(
    lambda value: re.fullmatch(r"(?:[0-9a-f]{64})?", value) is not None,
    '64 hexadecimal digits, or "" to accept any text',
)


def _are_hours(texts: tuple[str, ...]) -> bool:
    try:
        Hours.parse(texts)
    except ValueError:
        return False
    return True


_HOURS = Rule(_are_hours, f"hours like {EXAMPLE}")
_CAP = Rule(lambda value: 0 <= value <= 1e6, "0 for no limit, or up to 1000000")

RULES: Mapping[str, Rule] = {
    "name": _NAME,
    "seed": _SEED,
    "rounds": _COUNT,
    "model.layers": _COUNT,
    "model.width": _COUNT,
    "model.heads": _COUNT,
    "model.kv_heads": _COUNT,
    "model.mlp_hidden": _COUNT,
    "model.vocabulary": _COUNT,
    "model.context": _COUNT,
    "model.rope_theta": _POSITIVE,
    "model.norm_eps": _POSITIVE,
    "slicing.slices": _COUNT,
    "slicing.replicas": _COUNT,
    "slicing.quorum": _COUNT,
    "slicing.amplification": Rule(
        lambda value: 1 <= value < math.inf, "a number from 1 up; more than slicing.slices counts as so many"
    ),
    "slicing.last_amplification": Rule(
        lambda value: value == 0 or 1 <= value < math.inf, "0 for the same throughout, or a number from 1 up"
    ),
    "slicing.fragments": _COUNT,
    "slicing.parts": Rule(lambda value: len(value) == len(set(value)), "each part once"),
    "data.pattern": Rule(
        lambda value: value != "" and not value.startswith("/") and ".." not in value.split("/"),
        'a pattern inside the folder, like "**/*.py"',
    ),
    "data.validation_percent": Rule(lambda value: 1 <= value <= 50, "1 to 50"),
    "data.fingerprint": _FINGERPRINT,
    "data.path": _PRINTABLE,
    "data.tokenizer": _PRINTABLE,
    "data.tokenizer_hash": _FINGERPRINT,
    "data.end_token": _PRINTABLE,
    "inner.steps": _COUNT,
    "inner.batch": _COUNT,
    "inner.lr": _LR,
    "inner.warmup_steps": _COUNT_FROM_0,
    "inner.beta1": _DECAY,
    "inner.beta2": _DECAY,
    "inner.weight_decay": _COUNT_FROM_0,
    "inner.clip": _POSITIVE,
    "outer.lr": _LR,
    "outer.momentum": _DECAY,
    "outer.last_lr": Rule(lambda value: 0 <= value <= 100, "0 for the same as outer.lr, or up to 100"),
    "outer.cooldown": Rule(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "outer.common_lr_ratio": _LR,
    "overlap.delay_steps": _COUNT_FROM_0,
    "overlap.mixing": Rule(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "overlap.max_stale_rounds": _COUNT,
    "exchange.part_elements": _COUNT,
    "exchange.lease_s": _SECONDS,
    "exchange.gather_timeout_s": _SECONDS,
    "exchange.reduce_timeout_s": _SECONDS,
    "exchange.vote_timeout_s": _SECONDS,
    "exchange.max_constituents": Rule(lambda value: 0 <= value <= 64, "a whole number from 0 to 64"),
    "exchange.max_owners": Rule(lambda value: 3 <= value <= 1024, "a whole number from 3 to 1024"),
    "exchange.max_listed": Rule(lambda value: 3 <= value <= 4096, "a whole number from 3 to 4096"),
    "exchange.history": _COUNT,
    "door.authority": Rule(
        lambda value: re.fullmatch(r"(?:12D3KooW[1-9A-HJ-NP-Za-km-z]{44})?", value) is not None,
        'the peer id of an Ed25519 key, 12D3KooW..., or "" for a run without an authority',
    ),
}
"""Of manifests."""

PEER_RULES: Mapping[str, Rule] = {
    "limits.compute_hours": _HOURS,
    "limits.network_hours": _HOURS,
    "limits.max_temperature_c": Rule(lambda value: value == 0 or 20 <= value <= 120, "20 to 120, or 0 for no limit"),
    "limits.gpu_memory_gib": _CAP,
    "limits.gpu_power_w": _CAP,
    "limits.threads": Rule(lambda value: 0 <= value <= 1024, "0 for torch's choice, or up to 1024"),
    "limits.niceness": Rule(lambda value: 0 <= value <= 19, "0 to 19"),
    "limits.upload_mbps": _CAP,
    "limits.download_mbps": _CAP,
    "limits.month_gb": _CAP,
    "limits.disk_gb": _CAP,
    "limits.pause_keeps_claim_s": Rule(lambda value: 0 <= value <= 86400, "0 to 86400 seconds"),
}
"""Of profiles."""


def contradictions(run: RunConfig) -> list[str]:
    """Problems between values that are fine each on its own, as sentences without the file's name."""
    problems = []
    run_steps = run.rounds * run.inner.steps
    if run.inner.warmup_steps >= run_steps:
        problems.append(
            f"inner.warmup_steps = {run.inner.warmup_steps} is not less than the run's {run_steps} inner steps"
            f" (rounds x inner.steps); choose less than {run_steps}"
        )
    if run.slicing.quorum > run.slicing.replicas:
        problems.append(
            f"slicing.quorum = {run.slicing.quorum} is more than slicing.replicas = {run.slicing.replicas};"
            f" choose at most {run.slicing.replicas}"
        )
    if run.slicing.fragments > run.inner.steps:
        problems.append(
            f"slicing.fragments = {run.slicing.fragments} is more than the {run.inner.steps} inner steps of a round"
            f" (inner.steps), in which each fragment has a turn; choose at most {run.inner.steps}"
        )
    if run.overlap.delay_steps > run.inner.steps:
        problems.append(
            f"overlap.delay_steps = {run.overlap.delay_steps} is more than the {run.inner.steps} inner steps of a round"
            f" (inner.steps): a slice is averaged once at a time; choose at most {run.inner.steps}"
        )
    if run.data.source == "folder" and not run.data.path:
        problems.append('data.path = "" is no folder; choose the directory that data.source = "folder" reads')
    if run.data.source != "folder" and run.data.path:
        problems.append(
            f'data.path = "{run.data.path}" is not read when data.source = "{run.data.source}";'
            ' choose data.source = "folder", or remove data.path'
        )
    if run.door.admission != "open" and not run.door.authority:
        problems.append(
            f'door.admission = "{run.door.admission}" needs somebody who admits; add door.authority = "12D3KooW...", or'
            ' choose "open"'
        )
    return problems + _between_text_and_tokens(run)


def _between_text_and_tokens(run: RunConfig) -> list[str]:
    data = run.data
    if data.tokenizer:
        if data.tokenizer_hash:
            return []
        return [
            f'data.tokenizer_hash = "" would let peers with another {data.tokenizer} into the run; choose the SHA-256'
            " of that file, as `p2ptrain run new --tokenizer` does"
        ]
    problems = [
        f'data.{key} = "{value}" means nothing where every byte is a token; choose a data.tokenizer, or remove it'
        for key, value in (("tokenizer_hash", data.tokenizer_hash), ("end_token", data.end_token))
        if value
    ]
    if run.model.vocabulary < 256:
        problems.append(
            f"model.vocabulary = {run.model.vocabulary} is less than there are bytes; choose 256, or a data.tokenizer"
        )
    return problems
