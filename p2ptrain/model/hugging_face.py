"""Slicing a Llama- or Qwen-style model that somebody else built, by the names of its projections.

    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")
    sliced = slice_model(model, SlicingConfig(slices=2, parts=("mlp",)), owned=frozenset({SliceId("0")}))
    optimizer = torch.optim.AdamW(sliced.owned_parameters())
    model(input_ids=..., labels=...).loss.backward()  # gradients of slice 0, and of nothing else
    model.save_pretrained("learned")                  # as any other: what is saved has the model's own names
    sliced.restore()                                  # an ordinary model again, with what was learned

Only names and ``nn.Linear`` are relied on: ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj`` in an attention and
``gate_proj``, ``up_proj``, ``down_proj`` in an MLP. Everything else is the common part. transformers is not imported.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from p2ptrain.config.schema import SlicingConfig
from p2ptrain.errors import SlicingError
from p2ptrain.ids import COMMON, SliceId, numbered_slices
from p2ptrain.model.sliced_linear import SlicedTensor, rows_as_inputs, rows_as_outputs
from p2ptrain.model.slicing import Region, SlicePlan

_MLP = ("gate_proj", "up_proj", "down_proj")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_ROWS_ARE_INPUTS = ("down_proj", "o_proj")
_FUSED = ("qkv_proj", "gate_up_proj", "c_attn", "query_key_value", "Wqkv", "in_proj")


class SlicedProjection(nn.Module):
    """An ``nn.Linear`` whose weight gradient exists for the owned rows alone.

    Rows are outputs, and in ``o_proj`` and ``down_proj`` inputs: there the weight lies transposed.
    """

    def __init__(
        self, linear: nn.Linear, weight: SlicedTensor, bias: SlicedTensor | None, rows_are_inputs: bool
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.rows_are_inputs = rows_are_inputs
        self._sliced, self._sliced_bias = weight, bias
        self.bias: Tensor | None
        """Shape [out_features], or None."""
        if bias is None:
            self.register_parameter("bias", linear.bias)  # of the common part, under the name that it has in the plan
        else:
            self.bias = bias.full
        for number, leaf in enumerate([*weight.owned, *(bias.owned if bias else ())]):
            self.register_parameter(f"owned_{number}", leaf)

    @property
    def weight(self) -> Tensor:
        """As ``nn.Linear`` has it, shape [out_features, in_features], without gradient."""
        return self._sliced.full.t() if self.rows_are_inputs else self._sliced.full

    def forward(self, x: Tensor) -> Tensor:
        """``x Wᵀ + b``; x has shape [..., in_features]."""
        y = rows_as_inputs(x, self._sliced) if self.rows_are_inputs else rows_as_outputs(x, self._sliced)
        if self._sliced_bias is not None:
            return y + _assembled(self._sliced_bias)
        return y if self.bias is None else y + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device, what trains as a view of the whole as before.

        Raises:
            SlicingError: another dtype would part the two.
        """
        for part in (self._sliced, self._sliced_bias):
            if part is None:
                continue
            moved = fn(part.full)
            if moved.dtype != part.full.dtype:
                raise SlicingError(
                    f"a sliced model cannot go from {part.full.dtype} to {moved.dtype}; convert it before slice_model"
                )
            part.full, part.low_bits = moved, tuple(map(fn, part.low_bits))
            for (first, stop), leaf in zip(part.ranges, part.owned, strict=True):
                leaf.data = moved[first:stop]
                leaf.grad = None if leaf.grad is None else fn(leaf.grad)
        if self._sliced_bias is not None:
            self.bias = self._sliced_bias.full
        elif self.bias is not None:
            self.bias.data = fn(self.bias.data)
            self.bias.grad = None if self.bias.grad is None else fn(self.bias.grad)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Raises SlicingError: the copy of what trains would be no view of the copied whole."""
        raise SlicingError("a sliced model cannot be copied; copy it before slice_model, or restore() it first")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """As ``nn.Linear`` does, whole: a saved model has ordinary names, whatever part of it was trained here."""
        destination[f"{prefix}weight"] = self.weight.contiguous()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """As ``nn.Linear`` does, into the rows that train and those that do not."""
        held: dict[str, Tensor] = {"weight": self.weight}
        if self.bias is not None:
            held["bias"] = self.bias
        for name, tensor in held.items():
            found = state_dict.get(prefix + name)
            if found is None:
                missing_keys.append(prefix + name)
            elif found.shape != tensor.shape:
                error_msgs.append(f"{prefix}{name} has shape {tuple(found.shape)}, and not {tuple(tensor.shape)}")
            else:
                tensor.detach().copy_(found)
        for part in (self._sliced, self._sliced_bias):
            for low in part.low_bits if part else ():
                low.zero_()
        others = [key for key in state_dict if key.startswith(prefix) and key.removeprefix(prefix) not in held]
        unexpected_keys.extend(others if strict else ())


@dataclass(frozen=True, kw_only=True)
class SlicedModel:
    """Somebody's model with its projections sliced in place."""

    model: nn.Module
    plan: SlicePlan
    """Names are the model's parameter names; those of ``o_proj`` and ``down_proj`` are transposed."""
    owned: frozenset[SliceId]
    parts: dict[str, SlicedTensor]

    def owned_parameters(self) -> list[nn.Parameter]:
        """What trains, for an optimizer."""
        return [leaf for part in self.parts.values() for leaf in part.owned] + [
            parameter
            for name, parameter in self.model.named_parameters()
            if name in self.plan.shapes and parameter.requires_grad
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter in full by name, for ``plan.gather`` and ``plan.scatter``; writing changes the model."""
        whole = {name: p.detach() for name, p in self.model.named_parameters() if name in self.plan.shapes}
        return whole | {name: part.full for name, part in self.parts.items()}

    def restore(self) -> nn.Module:
        """Put ordinary ``nn.Linear`` back, with the weights as they are now, all of it trainable; returns the model."""
        for path, module in list(self.model.named_modules()):
            if isinstance(module, SlicedProjection):
                bias = module.bias
                linear = nn.Linear(module.in_features, module.out_features, bias=bias is not None, device="meta")
                linear.weight = nn.Parameter(module.weight.detach().contiguous())
                if bias is not None:
                    linear.bias = nn.Parameter(bias.detach())
                self.model.set_submodule(path, linear)
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        return self.model


def slice_model(model: nn.Module, slicing: SlicingConfig, owned: frozenset[SliceId]) -> SlicedModel:
    """Replace a model's projections by sliced ones, in place; its outputs stay the same.

    Args:
        model: with attentions and MLPs named as in Llama, Mistral, Qwen2 or Qwen3; on any device, of any float dtype.
        slicing: N and what is cut.
        owned: what trains: numbered slices, the common part (all that is not cut) or both.

    Raises:
        SlicingError: the architecture cannot be cut, or not into that many slices; nothing was changed.
    """
    _check_names(slicing, owned)
    found = list(_projections(model, slicing))
    if not found:
        raise SlicingError(
            f"{type(model).__name__} has no {' or '.join(_named(slicing))} made of nn.Linear, so nothing can be cut;"
            " models named as in Llama, Mistral, Qwen2 and Qwen3 can be"
        )
    _check_complete(model, found)
    _check_rows(model, slicing, found)
    plan = _plan(model, slicing, found)
    parts: dict[str, SlicedTensor] = {}
    for parameter in model.parameters():
        parameter.requires_grad_(COMMON in owned and parameter.requires_grad)
    for path, linear in found:
        rows_are_inputs = path.endswith(_ROWS_ARE_INPUTS)
        weight = linear.weight.detach()
        name = f"{path}.weight"
        parts[name] = SlicedTensor(weight.t().contiguous() if rows_are_inputs else weight, plan.owned_rows(name, owned))
        bias = None
        if _has_bias(linear) and not rows_are_inputs:
            name = f"{path}.bias"
            parts[name] = bias = SlicedTensor(linear.bias.detach(), plan.owned_rows(name, owned))
        model.set_submodule(path, SlicedProjection(linear, parts[f"{path}.weight"], bias, rows_are_inputs))
    return SlicedModel(model=model, plan=plan, owned=owned, parts=parts)


def _check_names(slicing: SlicingConfig, owned: Collection[SliceId]) -> None:
    if unknown := [part for part in slicing.parts if part not in ("mlp", "heads")]:
        raise SlicingError(f"slicing.parts has {unknown[0]!r}, which is not known; choose from mlp and heads")
    if not slicing.parts:
        raise SlicingError("slicing.parts is empty, so nothing would be cut; choose from mlp and heads")
    slices = (COMMON, *numbered_slices(slicing.slices))
    if strangers := [one for one in owned if one not in slices]:
        raise SlicingError(f"slice {strangers[0]!r} is not of this slicing; choose from {', '.join(slices)}")


def _named(slicing: SlicingConfig) -> tuple[str, ...]:
    return (_MLP if "mlp" in slicing.parts else ()) + (_ATTENTION if "heads" in slicing.parts else ())


def _projections(model: nn.Module, slicing: SlicingConfig) -> Iterator[tuple[str, nn.Linear]]:
    wanted = _named(slicing)
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if name in _FUSED:
            raise SlicingError(
                f"{path} of {type(model).__name__} holds several projections in one matrix, and a slice must be a"
                " block of rows; load a form of the model with separate q_proj, k_proj, v_proj, gate_proj and up_proj"
            )
        if name == "experts":
            raise SlicingError(
                f"{path} of {type(model).__name__} are experts, of which each token sees a few; only dense MLPs can"
                " be cut"
            )
        if name not in wanted:
            continue
        if type(module) is not nn.Linear:
            raise SlicingError(
                f"{path} is a {type(module).__name__} and not nn.Linear; slice the model before it is quantised or"
                " wrapped"
            )
        yield path, module


def _check_complete(model: nn.Module, found: list[tuple[str, nn.Linear]]) -> None:
    """Every attention and MLP of which something is cut has all projections of its kind."""
    for kind in (_MLP, _ATTENTION):
        parents = {path.rpartition(".")[0] for path, _ in found if path.rpartition(".")[2] in kind}
        for parent in sorted(parents):
            missing = [name for name in kind if not hasattr(model.get_submodule(parent), name)]
            if missing:
                raise SlicingError(
                    f"{parent} of {type(model).__name__} has no {' and no '.join(missing)}, so it would be cut in part;"
                    " models named as in Llama, Mistral, Qwen2 and Qwen3 can be cut"
                )


def _check_rows(model: nn.Module, slicing: SlicingConfig, found: list[tuple[str, nn.Linear]]) -> None:
    """Equal slices: hidden units by number, attention by whole key/value heads, as far as the heads' size is known."""
    counts = {}
    for path, linear in found:
        parent, _, name = path.rpartition(".")
        if name in _MLP:
            counts[f"{path} hidden units"] = linear.in_features if name == "down_proj" else linear.out_features
        elif name == "k_proj":
            # Where the heads' size is not said, pairs of rows are the least that rotary positions keep together.
            head_size = getattr(model.get_submodule(parent), "head_dim", 2)
            counts[f"{path} key/value heads"] = linear.out_features // int(head_size)
    possible = math.gcd(*counts.values())
    bad = [f"{count} of {what}" for what, count in counts.items() if slicing.slices < 1 or count % slicing.slices]
    if bad:
        choices = ", ".join(str(n) for n in range(1, possible + 1) if possible % n == 0)
        raise SlicingError(
            f"slicing.slices = {slicing.slices} cannot cut {bad[0]} into equal slices; these numbers can: {choices}"
        )


def _plan(model: nn.Module, slicing: SlicingConfig, found: list[tuple[str, nn.Linear]]) -> SlicePlan:
    numbered = numbered_slices(slicing.slices)
    cut = {f"{path}.weight" for path, _ in found}
    cut |= {f"{path}.bias" for path, linear in found if _has_bias(linear) and not path.endswith(_ROWS_ARE_INPUTS)}
    shapes: dict[str, tuple[int, ...]] = {}
    regions: dict[SliceId, list[Region]] = {slice_id: [] for slice_id in (COMMON, *numbered)}
    for name, parameter in model.named_parameters():
        turned = name in cut and name.removesuffix(".weight").endswith(_ROWS_ARE_INPUTS)
        shapes[name] = tuple(parameter.shape[::-1] if turned else parameter.shape)
        if name not in cut:
            regions[COMMON].append(Region(name, 0, shapes[name][0]))
            continue
        share = shapes[name][0] // slicing.slices
        for index, slice_id in enumerate(numbered):
            regions[slice_id].append(Region(name, index * share, (index + 1) * share))
    return SlicePlan(
        slice_ids=(COMMON, *numbered),
        shapes=shapes,
        regions_of={slice_id: tuple(listed) for slice_id, listed in regions.items()},
    )


def _has_bias(linear: nn.Linear) -> bool:
    return getattr(linear, "bias", None) is not None


def _assembled(bias: SlicedTensor) -> Tensor:
    """The bias with gradients for its owned rows."""
    whole = bias.full
    for (first, stop), leaf in zip(bias.ranges, bias.owned, strict=True):
        before, after = first, whole.shape[0] - stop
        whole = whole + F.pad(leaf - leaf.detach(), (before, after))
    return whole
