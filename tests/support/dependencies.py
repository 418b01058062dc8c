"""All packages that p2ptrain needs, with what those need, as installed here; and what is known to be wrong with them.

python -m tests.support.dependencies            the lines of constraints.txt
python -m tests.support.dependencies --audit    look them up in PyPI's database of vulnerabilities: make audit
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def installed_versions() -> dict[str, str]:
    """Of everything that pyproject.toml names, development tools included, and of what those need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["dev"])]
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that nobody asked for, or CUDA's, which a torch for CPUs does not bring
        found[name] = package.version.partition("+")[0]
        for text in package.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *wanted.extras)):
                waiting.append(needed)
    return found


def pinned_versions() -> dict[str, str]:
    """What constraints.txt says."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def verdict(audited: Iterable[dict[str, object]]) -> tuple[int, str]:
    """Exit status and sentence for pip-audit's findings: a package that could not be looked up is not a sound one."""
    packages = list(audited)
    unknown = [str(one["name"]) for one in packages if "skip_reason" in one]
    wrong = [f"{one['name']} {one['version']}: {one['vulns']}" for one in packages if one.get("vulns")]
    if wrong:
        return 1, "\n".join(["known to be vulnerable:", *wrong])
    if unknown:
        names = ", ".join(unknown[:5])
        return 3, f"NOT AUDITED: {len(unknown)} of {len(packages)} packages could not be looked up: {names} ..."
    return 0, f"{len(packages)} packages, none of them known to be vulnerable"


def audit() -> int:
    """Ask pip-audit about the pinned versions."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in sorted(pinned_versions().items()))
        file.flush()
        command = ["pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip", "--format", "json"]
        done = subprocess.run(
            [sys.executable, "-m", *command, "--progress-spinner", "off"], capture_output=True, text=True, check=False
        )
    try:
        status, sentence = verdict(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        status, sentence = 3, f"NOT AUDITED: {(done.stderr.strip().splitlines() or ['pip-audit said nothing'])[-1]}"
    sys.stdout.write(sentence + "\n")
    return status


if __name__ == "__main__":
    if "--audit" in sys.argv:
        sys.exit(audit())
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in sorted(installed_versions().items()))
