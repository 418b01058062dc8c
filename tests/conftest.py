"""Settings of the property tests: no deadline on shared machines, and the same examples each time in CI."""

import os

from hypothesis import settings

settings.register_profile("p2ptrain", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("p2ptrain")
