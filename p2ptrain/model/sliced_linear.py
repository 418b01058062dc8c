"""The partial backward: one product with the whole matrix forward, weight gradients of the owned rows alone.

    forward          y  = x Wᵀ  or  x W        all rows
    input gradient   dx = dy W  or  dy Wᵀ      all rows, exact
    weight gradient  dW[owned]                 nothing else is computed, and nothing else has memory for it

Rows of W are outputs in ``gate``, ``up``, ``q``, ``k``, ``v`` and inputs in ``down`` and ``o``. The gradient of an
input row needs that input column alone, so no other column is kept for the backward pass.

Source: Partial Parameter Updates (arXiv:2509.22418), for the split into full forward and partial weight gradient.
"""

from typing import Any

import torch
from torch import Tensor, nn

RowRanges = tuple[tuple[int, int], ...]


class SlicedTensor:
    """A parameter of which some rows train and the others only compute.

    Attributes:
        full: all rows, without gradient.
        ranges: the owned rows as (first, stop), in order, with gaps between them.
        owned: one leaf per range, a view into ``full``: an optimizer that updates it in place updates the model, and
            gradients exist for these rows only.
    """

    def __init__(self, full: Tensor, ranges: RowRanges) -> None:
        self.full = full
        self.ranges = ranges
        self.owned = tuple(nn.Parameter(full[first:stop]) for first, stop in ranges)

    @property
    def whole(self) -> Tensor:
        """The parameter for ordinary autograd, where it is owned as a whole or not at all."""
        if not self.owned:
            return self.full
        assert self.ranges == ((0, self.full.shape[0]),), "a parameter of the common part is never cut"
        return self.owned[0]


def rows_as_outputs(x: Tensor, weight: SlicedTensor) -> Tensor:
    """``x Wᵀ``: each row of the matrix makes one output.

    Args:
        x: shape [..., columns], float16 to float64, the matrix's dtype.
        weight: shape [rows, columns].

    Returns:
        Shape [..., rows], same dtype.
    """
    return _product(x, weight, rows_are_inputs=False)


def rows_as_inputs(x: Tensor, weight: SlicedTensor) -> Tensor:
    """``x W``: each row of the matrix belongs to one input.

    Args:
        x: shape [..., rows], float16 to float64, the matrix's dtype.
        weight: shape [rows, columns].

    Returns:
        Shape [..., columns], same dtype.
    """
    return _product(x, weight, rows_are_inputs=True)


def _product(x: Tensor, weight: SlicedTensor, *, rows_are_inputs: bool) -> Tensor:
    flat: Tensor = _PartialProduct.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), weight.full, rows_are_inputs, weight.ranges, *weight.owned
    )
    return flat.view(*x.shape[:-1], -1)


class _PartialProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, full: Tensor, rows_are_inputs: bool, ranges: RowRanges, *owned: Tensor) -> Tensor:
        ctx.rows_are_inputs = rows_are_inputs
        ctx.ranges = ranges
        if not rows_are_inputs:
            kept = [x] if owned else []
        elif ranges == ((0, full.shape[0]),):
            kept = [x]
        else:
            # A view would keep all columns alive until the backward pass; the copy lets the rest go.
            kept = [x[:, first:stop].clone(memory_format=torch.contiguous_format) for first, stop in ranges]
        ctx.save_for_backward(full, *kept)
        return x @ full if rows_are_inputs else x @ full.t()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        full, *kept = ctx.saved_tensors
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ full.t() if ctx.rows_are_inputs else dy @ full
        if ctx.rows_are_inputs:
            gradients = [columns.t() @ dy for columns in kept]
        else:
            gradients = [dy[:, first:stop].t() @ kept[0] for first, stop in ctx.ranges]
        return dx, None, None, None, *gradients
