from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from p2ptrain.config.schema import ModelConfig, SlicingConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.data.sampler import validation_windows
from p2ptrain.ids import COMMON, Digest
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer
from p2ptrain.training.evaluation import validation_loss

MODEL = ModelConfig(layers=1, width=16, heads=2, kv_heads=1, mlp_hidden=16, context=24)
TEXT = np.frombuffer(Path(__file__).read_bytes(), dtype=np.uint8)


def test_an_evaluation_computes_no_gradient_of_the_head() -> None:
    corpus = Corpus(train=TEXT[:100], validation=TEXT, fingerprint=Digest("0" * 64))
    flops = []
    for is_lean in (False, True):
        model = Transformer(MODEL, SlicePlan.of(MODEL, SlicingConfig(slices=1)), frozenset({COMMON}), lean=is_lean)
        with FlopCounterMode(display=False) as counter:
            validation_loss(model, corpus, 4)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0


def test_each_held_out_window_counts_the_same() -> None:
    model = Transformer(MODEL, SlicePlan.of(MODEL, SlicingConfig(slices=1)), frozenset())
    chance = torch.Generator().manual_seed(3)
    for tensor in model.tensors().values():
        tensor.copy_(torch.randn(tensor.shape, generator=chance))
    corpus = Corpus(train=TEXT[:100], validation=TEXT, fingerprint=Digest("0" * 64))
    # 20 windows are a batch of 16 and one of 4, and the first 16 are not like the others.
    windows = validation_windows(TEXT, num_windows=20, length=24)
    one_by_one = [float(model.loss(torch.from_numpy(window[None]))) for window in windows]
    assert max(one_by_one) > min(one_by_one) + 0.5
    assert validation_loss(model, corpus, 20) == pytest.approx(float(np.mean(one_by_one)), rel=1e-5)
    assert validation_loss(model, corpus, 20) == validation_loss(model, corpus, 20)
