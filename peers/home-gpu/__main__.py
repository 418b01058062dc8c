"""``python peers/KIND OPTIONS``: ``p2ptrain peer`` with the profile beside this file, and OPTIONS on top."""

import os
import sys
from pathlib import Path

profile = Path(__file__).with_name("peer.toml")
os.execv(sys.executable, [sys.executable, "-m", "p2ptrain", "peer", "--profile", str(profile), *sys.argv[1:]])  # noqa: S606
