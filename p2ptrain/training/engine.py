"""From a peer's ``EngineConfig`` to a model that computes so, and to a lighter one when memory runs out."""

from dataclasses import replace

import torch

from p2ptrain.config.schema import EngineConfig, ModelConfig
from p2ptrain.ids import SliceId
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def engine_transformer(
    model: ModelConfig, plan: SlicePlan, owned: frozenset[SliceId], engine: EngineConfig
) -> Transformer:
    """The model as ``engine`` says; its weights are zero. In bfloat16 it is always lean."""
    return Transformer(
        model,
        plan,
        owned,
        dtype=DTYPES[engine.precision],
        device=engine.device,
        lean=is_lean(engine),
        recompute=engine.recompute,
        compiled=engine.compile,
    )


def is_lean(engine: EngineConfig) -> bool:
    """Whether backward passes keep little, asked for or implied."""
    return engine.lean or engine.compile or engine.precision == "bfloat16" or engine.recompute != "nothing"


def lighter_engine(engine: EngineConfig, batch: int) -> EngineConfig | None:
    """The next way to compute the same step in less memory, cheapest in time first; None if there is none.

    Lean costs nothing; smaller micro-batches cost little until they are too small to fill the device; computing twice
    costs a fifth (MLPs) or a third (blocks).
    """
    if not is_lean(engine):
        return replace(engine, lean=True)
    micro_batch = engine.micro_batch or batch
    if micro_batch > 1:
        return replace(engine, micro_batch=(micro_batch + 1) // 2)
    if engine.recompute == "nothing":
        return replace(engine, recompute="mlp")
    if engine.recompute == "mlp":
        return replace(engine, recompute="blocks")
    return None


def describe(engine: EngineConfig) -> str:
    """An engine in words, for logs and reports."""
    windows = "the batch at once" if engine.micro_batch == 0 else f"micro-batches of {engine.micro_batch}"
    twice = {"nothing": "nothing computed twice", "mlp": "MLPs computed twice", "blocks": "blocks computed twice"}
    kept = " and little kept" if is_lean(engine) and engine.recompute == "nothing" else ""
    compiled = ", compiled" if engine.compile else ""
    return f"{engine.precision} on {engine.device}, {windows}, {twice[engine.recompute]}{kept}{compiled}"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; only for CUDA's allocator torch has a type of its own for that, else a sentence."""
    sentence = str(error)
    said = any(word in sentence for word in ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED"))
    return isinstance(error, torch.OutOfMemoryError) or said
