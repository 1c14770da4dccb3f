"""Run the tests on every supported CPython found here, and once with the oldest allowed dependencies.

Each run has its own environment in .venvs/, and a log beside it. It tests the compiled build, then the pure Python
build. A table of the results comes last. Arguments go to pytest. Exit status: 1 if a run failed or there was none.
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
COMPILED, PURE = "compiled build", "pure Python build"
MISSING_TOOLS = 3  # hatch_build.py: Cython or a C compiler is missing
NOTHING_SELECTED = 5  # pytest: no test was selected
SUMMARY = re.compile(r"^=+ (.*\d+ (?:passed|failed|error|deselected).*) =+$", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """The result of one run."""

    name: str
    build: str
    passed: bool
    summary: str
    seconds: float


def candidates(version: str) -> Iterator[str]:
    """Return candidates for a Python of this version; pyenv's first, because a shim runs the selected version only."""
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
    """Return a constraint to the lowest allowed version of each dependency, of users' extras and of pytest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    constraints = []
    # The plugin of the oldest anyio imports a name that pytest 9.2 warns of, and a warning ends the run.
    pytest = [requirement for requirement in extras["test"] if Requirement(requirement).name == "pytest"]
    requirements = [*project["dependencies"], *extras["uvloop"], *extras["trio"], *extras["redis"], *pytest]
    for requirement in map(Requirement, requirements):
        (lowest,) = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        constraints.append(f"{requirement.name}=={lowest}")
    return constraints


def run(name: str, python: str, constraints: list[str]) -> Iterator[Result]:
    """Install and test with one Python, on both builds; all output goes to the log."""
    log = VENVS / f"{name}.log"
    log.unlink(missing_ok=True)
    variables = {"PYTHON": python, "PIP_INSTALL_ARGS": ""}
    if constraints:
        file = VENVS / f"{name}.txt"
        file.write_text("\n".join(constraints) + "\n")
        variables["PIP_INSTALL_ARGS"] = f"--constraint {file}"
    venv = VENVS / name
    installed = venv / "bin" / "python"
    began = time.monotonic()
    for step in (
        ["sh", str(ROOT / "scripts" / "venv.sh"), str(venv), "-e", ".[test]"],
        [str(installed), "-m", "pip", "list"],
    ):
        if call(log, *step, **variables) != 0:
            yield Result(name, "", False, f"the installation failed, see {log}", time.monotonic() - began)
            return
    status = call(log, str(installed), str(ROOT / "hatch_build.py"))
    if status == 0:
        yield suite(name, COMPILED, log, str(installed), "-m", "pytest")
    else:
        # A missing C compiler is a failure in CI only; a failed compilation always is one.
        passed = status == MISSING_TOOLS and not os.environ.get("CI")
        yield Result(name, COMPILED, passed, f"NOT TESTED: the compilation failed, see {log}", 0)
    again = ["-m", "not one_build"] if status == 0 else []
    yield suite(name, PURE, log, str(installed), "-m", "pytest", *again, PYWSAPP_PURE="1")


def suite(name: str, build: str, log: Path, *command: str, **variables: str) -> Result:
    """Run the suite on one build."""
    began, before = time.monotonic(), log.stat().st_size
    status = call(log, *command, *sys.argv[1:], **variables)
    with log.open(errors="replace") as written:
        written.seek(before)
        summaries = SUMMARY.findall(written.read())
    summary = summaries[-1] if summaries else f"no test ran, see {log}"
    if status == NOTHING_SELECTED and build == PURE and "deselected" in summary:
        status = 0  # the selected tests run on one build only
    return Result(name, build, status == 0 and bool(summaries), summary, time.monotonic() - began)


def call(log: Path, *command: str, **variables: str) -> int:
    environment = {key: value for key, value in os.environ.items() if key != "PYWSAPP_PURE"} | variables
    with log.open("a") as out:
        return subprocess.call(command, cwd=ROOT, env=environment, stdout=out, stderr=out)


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
        for result in run(name, python, constraints):
            print(f"  {result.build}: {result.summary}", flush=True)
            results.append(result)
    print(f"\n{'Python':<8} {'build':<17} {'':<6} {'seconds':>7}  result")
    for result in results:
        verdict = "ok" if result.passed else "FAILED"
        print(f"{result.name:<8} {result.build:<17} {verdict:<6} {result.seconds:7.0f}  {result.summary}")
    for version in VERSIONS:
        if version not in found:
            print(f"{version:<8} not found here")
    print(f"logs in {VENVS}")
    return 0 if results and all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
