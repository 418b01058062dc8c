"""Where ``p2ptrain`` and ``python -m p2ptrain`` begin: says what the machine lacks before anything can fail on it.

Nothing newer than Python 3.5 in this file (and nothing of p2ptrain imported above ``main``), so that an old Python
prints a sentence instead of a syntax error.
"""

import platform
import signal
import sys


def unmet_requirement(python, system, machine, torch, hivemind):
    # type: (tuple[int, ...], str, str, str | None, str | None) -> str | None
    """What keeps p2ptrain from running here, as one sentence with the remedy; None when nothing does.

    Args:
        python: version, as in ``sys.version_info``.
        system: ``platform.system()``.
        machine: ``platform.machine()``.
        torch: version of the installed package; None when there is none.
        hivemind: as for torch.
    """
    found = ".".join(str(number) for number in python[:3])
    if not (3, 11) <= tuple(python[:2]) <= (3, 12):
        return "needs Python 3.11 or 3.12, and this is " + found + "; install one, or try: make PYTHON=python3.11"
    if (system, machine) != ("Linux", "x86_64"):
        return (
            "needs Linux on x86-64 (hivemind's network daemon is built for that), and this is "
            + system + " on " + machine + "; use a Linux machine or container"
        )  # fmt: skip
    install = "; in p2ptrain's folder run: pip install --constraint constraints.txt --editable ."
    if torch is None:
        return "needs torch, which is not installed" + install
    if _major_minor(torch) < (2, 5):
        return "needs torch 2.5 or newer, and this is " + torch + install
    if hivemind is None:
        return "needs hivemind, which is not installed" + install
    return None


def main():
    # type: () -> int
    """Check the machine, then do what the command line says."""
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:  # nothing is begun yet, so Ctrl-C needs no traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    lacking = unmet_requirement(
        tuple(sys.version_info[:3]),
        platform.system(),
        platform.machine(),
        _installed("torch"),
        _installed("hivemind"),
    )
    if lacking is not None:
        sys.stderr.write("p2ptrain " + lacking + "\n")
        return 2
    from p2ptrain.cli.main import main as command_line

    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command_line()


def _installed(package):
    # type: (str) -> str | None
    """Version from the package's metadata: importing torch and hivemind takes seconds."""
    try:
        from importlib import metadata
    except ImportError:  # Python 3.7, which is told apart by its version
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _major_minor(version):
    # type: (str) -> tuple[int, ...]
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:2])


if __name__ == "__main__":
    sys.exit(main())
