import hashlib

import numpy as np
import pytest

from p2ptrain.data.sampler import training_windows, validation_windows
from p2ptrain.errors import DataError
from p2ptrain.ids import PeerId, Version

TEXT = np.frombuffer(hashlib.shake_256(b"text").digest(5000), dtype=np.uint8)


def draw(
    *, seed: int = 1, peer: str = "a", round: int = 0, inner_step: int = 0, batch: int = 4, length: int = 16
) -> np.ndarray:
    return training_windows(
        TEXT,
        seed=seed,
        peer=PeerId(peer),
        round=Version(round),
        inner_step=inner_step,
        batch=batch,
        length=length,
    )


def test_a_step_draws_the_same_windows_each_time_and_on_any_machine() -> None:
    first = draw()
    draw(round=7)
    assert np.array_equal(first, draw())
    assert hashlib.sha256(first.astype("<i8").tobytes()).hexdigest()[:16] == "40c53af3bd35dc3e"


@pytest.mark.parametrize("other", [{"seed": 2}, {"peer": "b"}, {"round": 1}, {"inner_step": 1}])
def test_windows_differ_by_seed_peer_round_and_inner_step(other: dict[str, int]) -> None:
    assert not np.array_equal(draw(), draw(**other))


def test_windows_are_pieces_of_the_text_with_one_token_more_than_is_predicted() -> None:
    windows = draw(batch=8, length=16)
    assert windows.shape == (8, 17)
    assert windows.dtype == np.int64
    assert all(TEXT.tobytes().find(window.astype(np.uint8).tobytes()) >= 0 for window in windows)


def test_every_offset_can_be_drawn_and_none_beyond() -> None:
    text = np.arange(10, dtype=np.uint8)
    firsts = {
        int(window[0])
        for step in range(40)
        for window in training_windows(
            text, seed=1, peer=PeerId("a"), round=Version(0), inner_step=step, batch=4, length=7
        )
    }
    assert firsts == {0, 1, 2}


def test_validation_windows_are_spread_from_the_first_byte_to_the_last() -> None:
    text = np.arange(100, dtype=np.uint8)
    windows = validation_windows(text, num_windows=4, length=9)
    assert windows[:, 0].tolist() == [0, 30, 60, 90]
    assert windows[-1, -1] == 99
    assert validation_windows(text, num_windows=1, length=9).shape == (1, 10)


def test_text_shorter_than_a_window_is_refused_with_its_size() -> None:
    short = np.zeros(16, dtype=np.uint8)
    with pytest.raises(DataError, match="training text has 16 tokens and one window needs 17"):
        training_windows(short, seed=1, peer=PeerId("a"), round=Version(0), inner_step=0, batch=1, length=16)
    with pytest.raises(DataError, match="validation text has 16 tokens"):
        validation_windows(short, num_windows=1, length=16)
    assert validation_windows(short, num_windows=1, length=15).shape == (1, 16)
