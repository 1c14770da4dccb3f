"""The packages of CI: the lock has what pyproject.toml asks for, on each Python and system, and make installs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SYSTEMS = {"linux": "posix", "darwin": "posix", "win32": "nt"}
LOCKS = {"dev": "dev.txt", "fuzz": "fuzz.txt"}


def locked(name: str) -> list[Requirement]:
    """Return the entries of a lock."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [line.partition("--hash")[0].strip() for line in text.splitlines() if line and line[0] not in " #"]
    return [Requirement(line) for line in lines]


def wanted(extra: str) -> Iterator[Requirement]:
    """Return the requirements of an extra, with those of the extras that it names."""
    yield from map(Requirement, PROJECT["project"]["dependencies"])
    for requirement in map(Requirement, PROJECT["project"]["optional-dependencies"][extra]):
        if requirement.name == PROJECT["project"]["name"]:
            for other in requirement.extras:
                yield from wanted(other)
        else:
            yield requirement


def applies(requirement: Requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("extra", LOCKS)
def test_the_lock_has_what_the_project_wants(extra: str, version: str, system: str) -> None:
    environment = {
        "python_version": version,
        "python_full_version": f"{version}.1",
        "sys_platform": system,
        "os_name": SYSTEMS[system],
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }
    pins: dict[str, str] = {}
    for pin in locked(LOCKS[extra]):
        if applies(pin, environment):
            [version_of] = pin.specifier
            assert version_of.operator == "=="
            assert canonicalize_name(pin.name) not in pins, "one version for each Python and system"
            pins[canonicalize_name(pin.name)] = version_of.version
    missing = [
        str(requirement)
        for requirement in wanted(extra)
        if applies(requirement, environment)
        and not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]
    assert missing == [], "run: make lock"


@pytest.mark.parametrize("name", LOCKS.values())
def test_every_package_has_hashes(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    entries = re.findall(r"^[\w.-]+==(?:.*\\\n)+.*$", text, re.MULTILINE)
    assert len(entries) == len(locked(name))
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_packages_that_build_the_project_are_locked() -> None:
    pins = {canonicalize_name(pin.name): pin for pin in locked("dev.txt")}
    for requirement in map(Requirement, PROJECT["build-system"]["requires"]):
        [version] = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(version.version)


def test_make_and_the_workflows_install_the_lock() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for lock in LOCKS.values():
        assert f"requirements/{lock}" in makefile
    if not (ROOT / ".github").exists():
        return  # in an sdist
    for name, job in ("test.yml", "pure"), ("release.yml", "pure"):
        text = (ROOT / ".github" / "workflows" / name).read_text()
        steps = re.split(r"^  (\w+):.*$", text, flags=re.MULTILINE)
        assert "pip install --require-hashes -r requirements/dev.txt" in steps[steps.index(job) + 1]
