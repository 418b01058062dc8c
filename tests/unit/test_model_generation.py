import pytest
import torch

from p2ptrain.config.schema import ModelConfig, SlicingConfig
from p2ptrain.errors import UsageError
from p2ptrain.model.generation import generate
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer

CONFIG = ModelConfig(layers=1, width=16, heads=2, kv_heads=1, mlp_hidden=16, vocabulary=260, context=8)


@pytest.fixture(scope="module")
def model() -> Transformer:
    built = Transformer(CONFIG, SlicePlan.of(CONFIG, SlicingConfig(slices=1)), frozenset())
    chance = torch.Generator().manual_seed(2)
    for tensor in built.tensors().values():
        tensor.copy_(torch.randn(tensor.shape, generator=chance) * 0.5)
    return built


def text(model: Transformer, **changes: object) -> bytes:
    arguments: dict[str, object] = {
        "prompt": b"abc",
        "num_tokens": 20,
        "temperature": 1.0,
        "seed": 1,
        "vocabulary": 256,
    }
    return bytes(generate(model, **(arguments | changes)))  # type: ignore[arg-type]


def test_the_same_arguments_give_the_same_text_and_other_seeds_another(model: Transformer) -> None:
    assert len(text(model)) == 20
    assert text(model) == text(model)
    assert text(model) != text(model, seed=2)
    assert text(model).startswith(text(model, num_tokens=5))


def test_temperature_zero_takes_the_likeliest_byte(model: Transformer) -> None:
    logits = model(torch.tensor([list(b"abc")]))[0, -1, :256]
    assert text(model, temperature=0.0, num_tokens=1) == bytes([int(logits.argmax())])
    assert text(model, temperature=0.0, seed=1) == text(model, temperature=0.0, seed=9)


def test_a_small_top_p_leaves_the_likeliest_byte_alone(model: Transformer) -> None:
    assert text(model, top_p=1e-9) == text(model, temperature=0.0)


def test_bytes_are_drawn_with_the_models_probabilities(model: Transformer) -> None:
    logits = model(torch.tensor([list(b"abc")]))[0, -1, :256].double()
    probability, byte = torch.softmax(logits, dim=-1).max(dim=-1)
    drawn = [text(model, num_tokens=1, seed=seed) for seed in range(400)]
    share = drawn.count(bytes([int(byte)])) / len(drawn)
    assert abs(share - float(probability)) < 4 * (float(probability) * (1 - float(probability)) / 400) ** 0.5


def test_only_the_last_context_of_a_long_prompt_counts(model: Transformer) -> None:
    assert text(model, prompt=b"x" * 50 + b"12345678") == text(model, prompt=b"12345678")


def test_tokens_that_the_tokenizer_does_not_have_are_never_taken(model: Transformer) -> None:
    likeliest = int(model(torch.tensor([list(b"abc")]))[0, -1].argmax())
    taken = {token for seed in range(20) for token in text(model, vocabulary=likeliest, seed=seed, prompt=b"\0")}
    assert taken
    assert max(taken) < likeliest


@pytest.mark.parametrize("wrong", [{"prompt": b""}, {"prompt": [260]}, {"vocabulary": 261}])
def test_no_prompt_and_tokens_that_the_model_lacks_are_refused(model: Transformer, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="the model 260"):
        text(model, **wrong)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"num_tokens": -1}])
def test_arguments_out_of_range_are_refused(model: Transformer, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="choose temperature"):
        text(model, **wrong)
