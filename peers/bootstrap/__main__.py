"""``python peers/bootstrap OPTIONS``: a bootstrap node for other machines, with a status page on this one."""

import os
import sys

usual = ["--host", "0.0.0.0", "--status", "127.0.0.1:8080"]  # noqa: S104 - to be reached is what it is for
os.execv(sys.executable, [sys.executable, "-m", "p2ptrain", "bootstrap", *usual, *sys.argv[1:]])  # noqa: S606
