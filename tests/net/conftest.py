"""Tests in emulated networks: slow by nature, so they are asked for by ``make test-net``."""

import os
from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave all but the smoke test out unless they were asked for."""
    if os.environ.get("P2PTRAIN_TEST_NET") == "1":
        return
    reason = pytest.mark.skip(reason="takes many minutes and root: run make test-net")
    for item in items:
        if _HERE in item.path.parents and item.get_closest_marker("net"):  # its folder is a keyword, too
            item.add_marker(reason)
