"""How fast the encodings are on this machine, per core."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from p2ptrain.config.schema import Codec
from p2ptrain.wire.codec import decode, encode, encoded_bytes

CODECS: tuple[Codec, ...] = ("int8", "int4", "float32")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecSpeed:
    """One encoding; throughput in GB of float32 per second of one core's time."""

    codec: Codec
    bits: float
    """Per element, scales included."""
    relative_error: float
    """Root mean square error over root mean square, of normally distributed numbers."""
    encode_gb_s: float
    """Median of the repeats."""
    encode_gb_s_min: float
    decode_gb_s: float
    decode_gb_s_min: float
    n: int


def codec_speeds(*, numel: int, repeats: int) -> list[CodecSpeed]:
    """Time encode and decode of ``numel`` normally distributed elements, one thread.

    Time is the thread's own CPU time, so that other jobs on the machine count little.
    """
    values = np.random.default_rng(0).standard_normal(numel).astype(np.float32) * np.float32(1e-3)
    rows = []
    for codec in CODECS:
        data = encode(codec, values)
        error = decode(codec, data, numel) - values
        encoding = _gb_s(partial(encode, codec, values), values.nbytes, repeats)
        decoding = _gb_s(partial(decode, codec, data, numel), values.nbytes, repeats)
        rows.append(
            CodecSpeed(
                codec=codec,
                bits=8 * encoded_bytes(codec, numel) / numel,
                relative_error=float(np.sqrt(np.square(error).mean() / np.square(values).mean())),
                encode_gb_s=statistics.median(encoding),
                encode_gb_s_min=min(encoding),
                decode_gb_s=statistics.median(decoding),
                decode_gb_s_min=min(decoding),
                n=repeats,
            )
        )
    return rows


def _gb_s(work: Callable[[], object], size_bytes: int, repeats: int) -> list[float]:
    work()
    measured = []
    for _ in range(repeats):
        started_s = time.thread_time()
        work()
        measured.append(size_bytes / (time.thread_time() - started_s) / 1e9)
    return measured
