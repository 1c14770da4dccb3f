"""Run the suite on every supported CPython found here, and once with the oldest dependencies that are allowed.

Each run has an environment of its own in .venvs/ and a log beside it; a table closes the whole.  Arguments go
to pytest.  Exit status: 1 if a run failed or there was none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
VENVS = ROOT / ".venvs"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
OLDEST = "oldest"
SUMMARY = re.compile(r"^=+ (.*\d+ (?:passed|failed|error).*) =+$", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """How one run ended."""

    name: str
    passed: bool
    summary: str
    seconds: float


def candidates(version: str) -> Iterator[str]:
    """Give what may be a Python of this version, pyenv's first: its shims work for the chosen version only."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True))
    yield from filter(None, (shutil.which(f"python{version}"), shutil.which("python3")))


def find_python(version: str) -> str | None:
    probe = "import ensurepip, sys, venv; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    for candidate in candidates(version):
        done = subprocess.run([candidate, "-c", probe], cwd="/", capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.split() == ["cpython", version]:
            return candidate
    return None


def lower_bounds() -> list[str]:
    """Give a constraint on the lowest allowed version of each dependency, those of users' extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    constraints = []
    for requirement in map(Requirement, [*project["dependencies"], *extras["uvloop"], *extras["trio"]]):
        (lowest,) = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        constraints.append(f"{requirement.name}=={lowest}")
    return constraints


def run(name: str, python: str, constraints: list[str]) -> Result:
    """Install and test with one Python; everything it prints goes into its log."""
    began = time.monotonic()
    log = VENVS / f"{name}.log"
    environment = {**os.environ, "PYTHON": python, "PIP_INSTALL_ARGS": ""}
    if constraints:
        file = VENVS / f"{name}.txt"
        file.write_text("\n".join(constraints) + "\n")
        environment["PIP_INSTALL_ARGS"] = f"--constraint {file}"
    venv = VENVS / name
    steps = [
        ["sh", str(ROOT / "scripts" / "venv.sh"), str(venv), "-e", ".[test]"],
        [str(venv / "bin" / "python"), "-m", "pip", "list"],
        [str(venv / "bin" / "python"), "-m", "pytest", *sys.argv[1:]],
    ]
    with log.open("w") as out:
        status = next(
            (
                code
                for step in steps
                if (code := subprocess.call(step, cwd=ROOT, env=environment, stdout=out, stderr=out))
            ),
            0,
        )
    summaries = SUMMARY.findall(log.read_text(errors="replace"))
    summary = summaries[-1] if summaries else f"no test ran, see {log}"
    return Result(name, status == 0 and bool(summaries), summary, time.monotonic() - began)


def main() -> int:
    VENVS.mkdir(exist_ok=True)
    pythons = {version: find_python(version) for version in VERSIONS}
    found = {version: python for version, python in pythons.items() if python is not None}
    runs = [(version, python, list[str]()) for version, python in found.items()]
    if found:
        runs.append((OLDEST, next(iter(found.values())), lower_bounds()))
    results = []
    for name, python, constraints in runs:
        print(f"{name}: {python} {' '.join(constraints)}", flush=True)
        results.append(run(name, python, constraints))
        print(f"  {results[-1].summary}", flush=True)
    print(f"\n{'Python':<8} {'':<6} {'seconds':>7}  result")
    for result in results:
        print(f"{result.name:<8} {'ok' if result.passed else 'FAILED':<6} {result.seconds:7.0f}  {result.summary}")
    for version in VERSIONS:
        if version not in found:
            print(f"{version:<8} not found here")
    print(f"logs in {VENVS}")
    return 0 if results and all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
