"""How good the model is on text that nobody trains on."""

import torch

from p2ptrain.data.corpus import Corpus
from p2ptrain.data.sampler import validation_windows
from p2ptrain.model.transformer import Transformer

_AT_ONCE = 16


def validation_loss(model: Transformer, corpus: Corpus, num_windows: int, *, at_once: int = _AT_ONCE) -> float:
    """Mean cross entropy over held-out windows, the same ones each time.

    Args:
        model: sees windows of its full context.
        corpus: its validation part is read.
        num_windows: more are slower and steadier; the spread falls with the square root.
        at_once: windows in one forward pass, 16 at most; no more than a training step has, and it takes no more memory.

    Returns:
        Nats per token.

    Raises:
        DataError: the held-out text is shorter than one window.
    """
    assert num_windows > 0, "a loss over no windows is no number"
    windows = torch.from_numpy(
        validation_windows(corpus.validation, num_windows=num_windows, length=model.config.context)
    )
    device = model.tensors()["embedding"].device
    total = 0.0
    with torch.no_grad():
        for batch in torch.split(windows, min(at_once, _AT_ONCE)):
            total += float(model.loss(batch.to(device))) * len(batch)
    return total / num_windows
