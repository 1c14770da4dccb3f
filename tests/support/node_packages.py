"""Packages of npm in a directory of the user's cache, for programs of Node.js that check what we make."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

#: The directory, outside of the project directory.
DIRECTORY = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pywsapp-node-schema"
#: The packages with their versions. Files with tests that need them run in one process, which installs them.
PACKAGES = {
    "@asyncapi/parser": "3.6.6",
    "@types/react": "19.3.3",
    "react": "19.3.1",
    "react-test-renderer": "19.3.1",
    "typescript": "7.0.2",
}


def node_program() -> str:
    """Return the path of Node.js; skip the test without it."""
    program = shutil.which("node")
    if program is None:
        _missing("this test needs Node.js: apt-get install nodejs npm")
    return program


def node_packages() -> tuple[str, Path]:
    """Return the path of Node.js and the directory `node_modules` with the packages; skip the test without npm."""
    program, npm = node_program(), shutil.which("npm")
    if npm is None:
        _missing("this test needs packages of npm: apt-get install nodejs npm")
    modules = DIRECTORY / "node_modules"
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items() if _version(modules / name) != version]
    if wanted:
        command = [npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(DIRECTORY), *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            _missing(f"{' '.join(command)}: {done.stderr.strip()}")
    return program, modules


def _version(package: Path) -> str | None:
    file = package / "package.json"
    return str(json.loads(file.read_bytes())["version"]) if file.is_file() else None


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
