"""Settings of all tests: what is slow on a shared machine is no failure, and examples are the same each time in CI."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Tests run beside each other, and the threads of one computation wait for each other in a loop: on two cores that
other processes use, too, what takes seconds took more than a minute."""

REAL_PEERS_TIMEOUT_S = 900.0
"""For a test with real peers; it ends one that hangs, and has nothing to do with how fast anything should be."""

settings.register_profile("p2ptrain", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("p2ptrain")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        own = item.get_closest_marker("timeout")
        is_longer = own is not None and own.args[0] > REAL_PEERS_TIMEOUT_S
        if any(item.get_closest_marker(name) for name in ("swarm", "faults")) and not is_longer:
            item.add_marker(pytest.mark.timeout(REAL_PEERS_TIMEOUT_S))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For modules that compare what torch computes: another number of threads sums in another order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
