"""Slicing a model by the names of its projections: a small tree of modules named as in transformers' Qwen2."""

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2ptrain.config.schema import SlicedParts, SlicingConfig
from p2ptrain.errors import SlicingError
from p2ptrain.ids import COMMON, SliceId
from p2ptrain.model.hugging_face import slice_model

pytestmark = pytest.mark.usefixtures("one_thread")
ONE = SliceId("1")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 4
        self.q_proj = nn.Linear(16, 32)
        self.k_proj = nn.Linear(16, 16)
        self.v_proj = nn.Linear(16, 16)
        self.o_proj = nn.Linear(32, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(16, 24, bias=False)
        self.up_proj = nn.Linear(16, 24, bias=False)
        self.down_proj = nn.Linear(24, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(16), nn.RMSNorm(16)
        self.self_attn, self.mlp = Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class TinyQwen(nn.Module):
    """Biases where Qwen2 has them; ``biased`` puts them everywhere, as Llama's attention_bias and mlp_bias do."""

    def __init__(self, *, biased: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(11, 16)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.lm_head = nn.Linear(16, 11, bias=False)
        for module in list(self.modules()) if biased else ():
            if isinstance(module, nn.Linear) and module.bias is None:
                module.bias = nn.Parameter(torch.randn(module.out_features))
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)


def loss(model: nn.Module) -> Tensor:
    tokens = torch.randint(0, 11, (3, 8), generator=torch.Generator().manual_seed(1))
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("owned", [frozenset({ONE}), frozenset({COMMON}), frozenset({COMMON, ONE})])
@pytest.mark.parametrize("parts", [("mlp",), ("mlp", "heads")])
@pytest.mark.parametrize("biased", [False, True])
def test_gradients_are_the_whole_models_for_what_is_owned_and_there_are_no_others(
    biased: bool, parts: tuple[SlicedParts, ...], owned: frozenset[SliceId]
) -> None:
    whole, cut = TinyQwen(biased=biased), TinyQwen(biased=biased)
    sliced = slice_model(cut, SlicingConfig(slices=4, parts=parts), owned)
    expected, found = loss(whole), loss(cut)
    assert found.item() == pytest.approx(expected.item(), rel=1e-14)
    expected.backward()
    found.backward()
    plan, gradients = sliced.plan, {name: p.grad for name, p in whole.named_parameters()}
    assert plan.shapes.keys() == gradients.keys()
    assert sum(p.numel() for p in sliced.owned_parameters()) == sum(plan.numel(slice_id) for slice_id in owned)
    for name, part in sliced.parts.items():
        gradient = gradients[name]
        assert gradient is not None
        laid = (
            gradient
            if gradient.shape == part.full.shape and "down" not in name and "o_proj" not in name
            else gradient.t()
        )
        for (first, stop), leaf in zip(part.ranges, part.owned, strict=True):
            torch.testing.assert_close(leaf.grad, laid[first:stop], rtol=1e-10, atol=1e-12)
    for name, parameter in cut.named_parameters():
        if name in plan.shapes and name not in sliced.parts and COMMON in owned:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("biased", [False, True])
def test_an_optimizer_moves_the_owned_slice_alone_and_restore_gives_an_ordinary_model_back(biased: bool) -> None:
    cut = TinyQwen(biased=biased)
    sliced = slice_model(cut, SlicingConfig(slices=2, parts=("mlp", "heads")), frozenset({ONE}))
    before = {slice_id: sliced.plan.gather(sliced.tensors(), slice_id) for slice_id in sliced.plan.slice_ids}
    optimizer = torch.optim.AdamW(sliced.owned_parameters(), lr=0.01)
    first = loss(cut)
    for _ in range(5):
        optimizer.zero_grad()
        loss(cut).backward()
        optimizer.step()
    trained = loss(cut)
    assert trained < first
    for slice_id, values in before.items():
        assert np.array_equal(sliced.plan.gather(sliced.tensors(), slice_id), values) == (slice_id != ONE)
    saved, ordinary = cut.state_dict(), TinyQwen(biased=biased)
    ordinary.load_state_dict(saved)
    assert loss(ordinary).item() == pytest.approx(trained.item(), rel=1e-12), "it is saved as it is, whole"
    restored = sliced.restore()
    assert restored.state_dict().keys() == TinyQwen(biased=biased).state_dict().keys()
    assert loss(restored).item() == pytest.approx(trained.item(), rel=1e-12)


@pytest.mark.parametrize("biased", [False, True])
def test_an_ordinary_state_is_loaded_into_what_trains_and_what_does_not(biased: bool) -> None:
    trained, cut = TinyQwen(biased=biased), TinyQwen(biased=biased)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    sliced = slice_model(cut, SlicingConfig(slices=2, parts=("mlp", "heads")), frozenset({ONE}))
    cut.load_state_dict(trained.state_dict())
    assert loss(cut).item() == pytest.approx(loss(trained).item(), rel=1e-12)
    with torch.no_grad():
        for leaf in sliced.owned_parameters():
            leaf.zero_()
    assert loss(cut).item() != pytest.approx(loss(trained).item(), rel=1e-3), "leaves are still views of the model"
    state = trained.state_dict()
    broken = {name: value for name, value in state.items() if name != "layers.0.mlp.up_proj.weight"}
    with pytest.raises(RuntimeError, match=r"Missing key.*layers\.0\.mlp\.up_proj\.weight"):
        cut.load_state_dict(broken)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layers\.0\.mlp\.up_proj\.scale"):
        cut.load_state_dict(state | {"layers.0.mlp.up_proj.scale": torch.ones(1)})
    with pytest.raises(RuntimeError, match=r"up_proj\.weight has shape \(1,\), and not \(24, 16\)"):
        cut.load_state_dict(state | {"layers.0.mlp.up_proj.weight": torch.ones(1)})


def test_masters_of_bfloat16_follow_a_loaded_state() -> None:
    trained, cut = TinyQwen().bfloat16(), TinyQwen().bfloat16()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter *= 2
    sliced = slice_model(cut, SlicingConfig(slices=2), frozenset({ONE}))
    part = sliced.parts["layers.0.mlp.up_proj.weight"]
    (first, stop) = part.ranges[0]
    part.write(first, stop, torch.full((stop - first, 16), 1.001))
    cut.load_state_dict(trained.state_dict())
    expected = trained.layers[0].mlp.up_proj.weight[first:stop].detach().float()
    torch.testing.assert_close(part.read(first, stop), expected, rtol=0, atol=0)


def test_a_sliced_model_that_is_moved_trains_on_and_one_that_would_come_apart_says_so() -> None:
    cut = TinyQwen(biased=True)
    sliced = slice_model(cut, SlicingConfig(slices=2, parts=("mlp", "heads")), frozenset({ONE}))
    before = loss(cut).item()
    cut._apply(torch.clone)  # as .to() another device does, which is not here
    assert loss(cut).item() == before
    optimizer = torch.optim.SGD(sliced.owned_parameters(), lr=0.1)
    loss(cut).backward()
    optimizer.step()
    assert loss(cut).item() < before
    with pytest.raises(SlicingError, match=r"from torch\.float64 to torch\.float32; convert it before"):
        cut.float()
    with pytest.raises(SlicingError, match="copy it before"):
        copy.deepcopy(cut)


def test_names_that_do_not_exist_are_refused_with_those_that_do() -> None:
    for owned, parts, message in (
        ({SliceId("7")}, ("mlp",), "slice '7' is not of this slicing; choose from common, 0, 1"),
        ({0}, ("mlp",), "slice 0 is not of this slicing"),
        ({ONE}, ("foo",), "'foo', which is not known; choose from mlp and heads"),
        ({ONE}, (), "slicing.parts is empty"),
    ):
        with pytest.raises(SlicingError, match=message):
            slice_model(TinyQwen(), SlicingConfig(slices=2, parts=parts), frozenset(owned))  # type: ignore[arg-type]


def test_a_swapped_in_slice_changes_the_model() -> None:
    cut = TinyQwen()
    sliced = slice_model(cut, SlicingConfig(slices=2), frozenset({ONE}))
    before = loss(cut).item()
    values = sliced.plan.gather(sliced.tensors(), SliceId("0"))
    sliced.plan.scatter(sliced.tensors(), SliceId("0"), values * 2)
    assert loss(cut).item() != before


def test_what_cannot_be_cut_is_refused_with_the_reason_and_left_as_it_was() -> None:
    fused, experts, quantised, partly = TinyQwen(), TinyQwen(), TinyQwen(), TinyQwen()
    partly.layers[1].mlp.fc2 = partly.layers[1].mlp.down_proj
    del partly.layers[1].mlp.down_proj
    fused.layers[0].self_attn.add_module("qkv_proj", nn.Linear(16, 64))
    experts.layers[0].mlp.add_module("experts", nn.ModuleList())
    quantised.layers[1].mlp.up_proj = nn.Identity()
    for model, message in (
        (fused, r"layers\.0\.self_attn\.qkv_proj of TinyQwen holds several projections in one matrix"),
        (experts, r"layers\.0\.mlp\.experts of TinyQwen are experts"),
        (quantised, r"layers\.1\.mlp\.up_proj is a Identity and not nn\.Linear"),
        (partly, r"layers\.1\.mlp of TinyQwen has no down_proj, so it would be cut in part"),
        (nn.Sequential(nn.Linear(2, 2)), "Sequential has no gate_proj .* nothing can be cut"),
    ):
        with pytest.raises(SlicingError, match=message):
            slice_model(model, SlicingConfig(slices=2), frozenset({ONE}))
        assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("slices", "parts", "message"),
    [
        (5, ("mlp",), r"cannot cut 24 of layers\.0\.mlp\.gate_proj hidden units .* can: 1, 2, 3, 4, 6, 8, 12, 24$"),
        (8, ("heads",), r"cannot cut 4 of layers\.0\.self_attn\.k_proj key/value heads .* can: 1, 2, 4$"),
    ],
)
def test_numbers_that_do_not_divide_are_refused_with_those_that_would(
    slices: int, parts: tuple[SlicedParts, ...], message: str
) -> None:
    with pytest.raises(SlicingError, match=message):
        slice_model(TinyQwen(), SlicingConfig(slices=slices, parts=parts), frozenset({ONE}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_models_of_transformers_itself_are_cut_by_the_same_names(family: str, tmp_path: Path) -> None:
    transformers: Any = import_module("transformers")  # not to be read by mypy, which would take a minute
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{family}Config")(**sizes, num_key_value_heads=2, vocab_size=40)
    torch.manual_seed(0)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(tmp_path)
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).double()
    cut = copy.deepcopy(whole)
    tokens = torch.randint(0, 40, (2, 9))
    sliced = slice_model(cut, SlicingConfig(slices=2, parts=("mlp", "heads")), frozenset({COMMON, ONE}))
    for model in (whole, cut):
        model(input_ids=tokens, labels=tokens).loss.backward()
    gradients = {name: parameter.grad for name, parameter in whole.named_parameters()}
    assert sliced.plan.shapes.keys() == gradients.keys()
    for name, part in sliced.parts.items():
        laid = gradients[name].t() if name.endswith(("down_proj.weight", "o_proj.weight")) else gradients[name]
        for (first, stop), leaf in zip(part.ranges, part.owned, strict=True):
            torch.testing.assert_close(leaf.grad, laid[first:stop], rtol=1e-10, atol=1e-12)
    cut.save_pretrained(tmp_path / "cut")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "cut", dtype=torch.float64)
    torch.testing.assert_close(again(input_ids=tokens).logits, cut(input_ids=tokens).logits)
