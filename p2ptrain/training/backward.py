"""Gradients of a batch in micro-batches, and their norm."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from p2ptrain.errors import StepBrokenOff
from p2ptrain.model.transformer import Transformer


def batch_gradients(
    model: Transformer, windows: Tensor, micro_batch: int, is_wanted: Callable[[], bool] = lambda: True
) -> tuple[Tensor, list[Tensor]]:
    """Loss of a batch and gradients of what the model owns.

    One micro-batch gives gradients in the model's dtype. Several add up in float32 at least, each gradient as soon as
    the backward pass has it, so that only one is there twice.

    Args:
        model: where to compute.
        windows: token ids, shape [B, T+1], int64, on the model's device.
        micro_batch: windows in one forward pass; 0 takes all.
        is_wanted: asked before each micro-batch but the first.

    Raises:
        StepBrokenOff: it was not wanted any more.

    Returns:
        The mean loss, a scalar, and one gradient for each of ``model.owned_parameters()``. The parameters' ``grad`` is
        left empty.
    """
    parameters = model.owned_parameters()
    pieces = torch.split(windows, micro_batch) if micro_batch else (windows,)
    # The optimizer's last gradients go when the first new activations are there: freed before, a small model's whole
    # heap goes back to the system and is faulted in again, which doubled the step of the nano preset (2.7 to 7 ms).
    loss = model.loss(pieces[0])
    for parameter in parameters:
        parameter.grad = None
    if len(pieces) == 1:
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), [_taken(parameter) for parameter in parameters]
    sums: dict[nn.Parameter, Tensor] = {}

    def add(parameter: nn.Parameter) -> None:
        gradient = _taken(parameter)
        wide = torch.promote_types(gradient.dtype, torch.float32)
        if parameter in sums:
            sums[parameter].add_(gradient)
        else:
            sums[parameter] = gradient.to(wide)

    hooks = [
        parameter.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call]
        for parameter in parameters
    ]
    try:
        losses = []
        for index, piece in enumerate(pieces):
            if index and not is_wanted():
                raise StepBrokenOff("an inner step was broken off")
            weighted = (loss if index == 0 else model.loss(piece)) * (len(piece) / len(windows))
            weighted.backward()  # type: ignore[no-untyped-call]
            losses.append(weighted.detach())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(losses).sum(), [sums[parameter] for parameter in parameters]


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, a float32 scalar."""
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def clip_scale(norm: Tensor, limit: float) -> Tensor:
    """What to multiply gradients with so that their norm is at most ``limit``; as ``clip_grad_norm_`` has it."""
    return (limit / (norm + 1e-6)).clamp(max=1.0)


def _taken(parameter: nn.Parameter) -> Tensor:
    gradient, parameter.grad = parameter.grad, None
    assert gradient is not None, "the backward pass reaches every owned parameter"
    return gradient
