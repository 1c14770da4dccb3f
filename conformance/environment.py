#!/usr/bin/env python3
"""The environment of the Autobahn suite: created at the first use, checked at every further use.

The suite (autobahntestsuite, on PyPI) needs Python 2.7, and a C compiler and the headers of that Python for its
wsaccel. As a program, this module prints the path of the environment's Python. Exit status: 2 if the environment could
not be created, 3 if this machine has no Python 2.7.

Environment variables:
    AUTOBAHN_ENV      the directory (default: pywsapp-autobahn in $XDG_CACHE_HOME or ~/.cache)
    AUTOBAHN_PYTHON2  a Python 2.7 (default: python2.7 or PyPy on PATH, then pyenv's)
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITE = "autobahntestsuite==25.10.1"
VIRTUALENV = "virtualenv<20.22"  # the last version that can create a Python 2.7 environment


class CannotRun(Exception):
    """The suite could not run; this is not a failure of the peer."""


class NoPython2(CannotRun):
    """This machine has no Python 2.7, and Debian has no package for it."""


def ensure() -> Path:
    """Create the environment if it is missing; return the path of its Python.

    Raises:
        CannotRun: it could not be created.
    """
    root = _root()
    python = root / "py27" / "bin" / "python"
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run can be creating it
        stamp = root / "installed"
        if not (stamp.exists() and stamp.read_text().strip() == SUITE and python.exists()):
            _create(root, python)
            stamp.write_text(f"{SUITE}\n")
    return python


def _root() -> Path:
    given = os.environ.get("AUTOBAHN_ENV")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pywsapp-autobahn"


def _create(root: Path, python: Path) -> None:
    python2 = _find_python2()
    log = root / "install.log"
    print(f"creating the Autobahn environment in {root} (log: {log})", file=sys.stderr)
    tool = root / "virtualenv"
    if not (tool / "bin" / "virtualenv").exists():
        _call(log, sys.executable, "-m", "venv", "--clear", tool)
        _call(log, tool / "bin" / "python", "-m", "pip", "install", "-q", VIRTUALENV)
    if not python.exists():
        _call(log, tool / "bin" / "virtualenv", "-q", "-p", python2, root / "py27")
    _call(log, python, "-m", "pip", "install", "-q", SUITE)


def _call(log: Path, *argv: str | Path) -> None:
    command = shlex.join(map(str, argv))
    with log.open("a") as out:
        out.write(f"$ {command}\n")
        out.flush()
        status = subprocess.call(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    if status != 0:
        raise CannotRun(f"{command} failed, see {log}")


def _find_python2() -> str:
    tried = []
    for candidate in _python2_candidates():
        if _is_python2(candidate):
            return candidate
        tried.append(candidate)
    raise NoPython2(f"no Python 2.7 found (tried: {', '.join(tried) or 'nothing'}); set AUTOBAHN_PYTHON2")


def _python2_candidates() -> Iterator[str]:
    given = os.environ.get("AUTOBAHN_PYTHON2")
    if given:
        yield given
        return
    for name in ("python2.7", "python2", "pypy2.7", "pypy"):
        found = shutil.which(name)
        if found:
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    for pattern in ("versions/*2.7*/bin/python2.7", "versions/*2.7*/bin/pypy"):
        yield from map(str, sorted(pyenv.glob(pattern), reverse=True))


def _is_python2(candidate: str) -> bool:
    probe = [candidate, "-c", "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"]
    try:
        # In /, so that a pyenv shim does not follow a .python-version of the project.
        done = subprocess.run(probe, cwd="/", timeout=30, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and done.stdout == b"2.7"


def main() -> int:
    try:
        print(ensure())
    except CannotRun as exc:
        print(f"environment.py: {exc}", file=sys.stderr)
        return 3 if isinstance(exc, NoPython2) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
