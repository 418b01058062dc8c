"""What the C library does with memory that is freed; in processes of their own, since it concerns all of them."""

import subprocess
import sys

_COUNT_FAULTS = """
import resource, sys
import numpy as np
from p2ptrain.training.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def average_some_parts():
    parts = [np.ones(1 << 18, np.float32) for _ in range(8)]
    for part in parts[1:]:
        parts[0] += part
average_some_parts()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    average_some_parts()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    command = [sys.executable, "-c", _COUNT_FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_memory_of_parts_is_used_again_where_it_went_back_to_the_system() -> None:
    assert page_faults("keep") < page_faults("default") / 10
