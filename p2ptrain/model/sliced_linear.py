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

    In bfloat16 the owned rows have float32 masters, kept as the bfloat16 rows in ``full`` and 16 more bits
    (``split_master``): 2 bytes an owned element less than masters beside the rows, 0.4 GB of the 1.3B model at N = 8.

    Attributes:
        full: all rows, without gradient.
        ranges: the owned rows as (first, stop), in order, with gaps between them.
        owned: one leaf per range, a view into ``full``: an optimizer that updates it in place updates the model, and
            gradients exist for these rows only.
        low_bits: in bfloat16, what the master of each range has beyond the rows; int16, of the range's shape.
    """

    def __init__(self, full: Tensor, ranges: RowRanges) -> None:
        self.full = full
        self.ranges = ranges
        self.owned = tuple(nn.Parameter(full[first:stop]) for first, stop in ranges)
        self.low_bits: tuple[Tensor, ...] = ()
        if full.dtype == torch.bfloat16:
            self.low_bits = tuple(torch.zeros_like(leaf, dtype=torch.int16) for leaf in self.owned)

    def read(self, first: int, stop: int) -> Tensor:
        """Rows as float32 where they have a master, otherwise as they are; a master's rows are all in one range."""
        for (begin, end), low in zip(self.ranges, self.low_bits, strict=False):
            if begin <= first and stop <= end:
                return joined_master(self.full[first:stop], low[first - begin : stop - begin])
        return self.full[first:stop]

    def write(self, first: int, stop: int, values: Tensor) -> None:
        """Set rows, and their masters where they have one; ``values`` are float32 on any device."""
        for (begin, end), low in zip(self.ranges, self.low_bits, strict=False):
            if begin <= first and stop <= end:
                split_master(values.to(self.full.device), self.full[first:stop], low[first - begin : stop - begin])
                return
        self.full[first:stop].copy_(values)

    @property
    def whole(self) -> Tensor:
        """The parameter for ordinary autograd, where it is owned as a whole or not at all."""
        if not self.owned:
            return self.full
        assert self.ranges == ((0, self.full.shape[0]),), "a parameter of the common part is never cut"
        return self.owned[0]


def joined_master(high: Tensor, low: Tensor) -> Tensor:
    """The float32 that ``split_master`` took apart, to the bit.

    Args:
        high: bfloat16.
        low: int16, same shape.
    """
    bits = high.view(torch.int16).to(torch.int32).bitwise_left_shift_(16)
    return bits.add_(low).view(torch.float32)


def split_master(master: Tensor, high: Tensor, low: Tensor) -> None:
    """Write ``master`` as the nearest bfloat16 and the signed distance to it in units of the last float32 bit.

    Ties go away from zero, where IEEE rounds them to even: only so does the distance always fit 16 bits.

    Args:
        master: float32, finite.
        high: receives bfloat16.
        low: receives int16, same shape.
    """
    bits = master.contiguous().view(torch.int32)
    rounded = (bits + 0x8000).bitwise_right_shift_(16)
    high.view(torch.int16).copy_(rounded)
    low.copy_(bits - rounded.bitwise_left_shift_(16))


def rows_as_outputs(x: Tensor, weight: SlicedTensor) -> Tensor:
    """``x Wᵀ``: each row of the matrix makes one output.

    Args:
        x: shape [..., columns], float16 to float64, the matrix's dtype.
        weight: shape [rows, columns].

    Returns:
        Shape [..., rows], same dtype.
    """
    return _product(x, weight, rows_are_inputs=False, keep_whole=True)


def rows_as_inputs(x: Tensor, weight: SlicedTensor, *, keep_whole: bool = False) -> Tensor:
    """``x W``: each row of the matrix belongs to one input.

    Args:
        x: shape [..., rows], float16 to float64, the matrix's dtype.
        weight: shape [rows, columns].
        keep_whole: keep ``x`` itself for the backward pass instead of a copy of its owned columns: right where
            somebody else keeps it anyway, as attention keeps its result.

    Returns:
        Shape [..., columns], same dtype.
    """
    return _product(x, weight, rows_are_inputs=True, keep_whole=keep_whole)


def _product(x: Tensor, weight: SlicedTensor, *, rows_are_inputs: bool, keep_whole: bool) -> Tensor:
    flat: Tensor = _PartialProduct.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), weight.full, rows_are_inputs, keep_whole, weight.ranges, *weight.owned
    )
    return flat.view(*x.shape[:-1], -1)


class _PartialProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        full: Tensor,
        rows_are_inputs: bool,
        keep_whole: bool,
        ranges: RowRanges,
        *owned: Tensor,
    ) -> Tensor:
        ctx.rows_are_inputs = rows_are_inputs
        ctx.ranges = ranges
        ctx.kept_whole = keep_whole or ranges == ((0, full.shape[0]),)
        if ctx.kept_whole:
            kept = [x] if owned else []
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
        if not ctx.rows_are_inputs:
            gradients = [dy[:, first:stop].t() @ kept[0] for first, stop in ctx.ranges]
        elif ctx.kept_whole:
            gradients = [kept[0][:, first:stop].t() @ dy for first, stop in ctx.ranges]
        else:
            gradients = [columns.t() @ dy for columns in kept]
        return dx, None, None, None, None, *gradients
