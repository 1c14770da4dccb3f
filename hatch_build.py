"""Compile the twin of the innermost modules: into a wheel while one is built, or in place with `python hatch_build.py`.

A module with a `.pxd` is compiled from the same `.py`, or from a `.pyx` beside it where CPython lacks an operation. The
twin lies beside its source under the same name, and import takes it first. `PYWSAPP_PURE=1` leaves it out of a wheel,
and aside at run time. All of the modules are compiled or none, for a compiled one relies on the layout of others.

Exit status in place: 0 if the twin is complete and newer than its sources, 3 if there is no Cython or no compiler here,
1 if it could not be compiled with them; there is no twin then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # compiling in place needs no hatchling
    BuildHookInterface = object  # type: ignore[assignment, misc]

SELF = Path(__file__).resolve()
ROOT = SELF.parent
SOURCE = ROOT / "src"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
NO_TOOLS = 3
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # types are what the .pxd says; hints stay hints, also for None and subclasses
    "allow_none_for_extension_args": False,  # None is no bytes: what reads its size would read past it
}


class Unable(Exception):
    """The twin could not be compiled; the text says why, in one line."""


class NoTools(Unable):
    """There is nothing here to compile with."""


class CompiledBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the twin into a wheel, which is then one for this platform and Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; where that cannot be, say so and let the wheel be one for any platform."""
        pure = bool(os.environ.get("PYWSAPP_PURE"))
        self._work = TemporaryDirectory(prefix="pywsapp-")
        try:
            if version == "editable":
                remove_extensions() if pure else build_in_place()
            elif not pure:
                twin = compile_extensions(Path(self._work.name))
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
                build_data["force_include"].update({str(path): name for name, path in twin.items()})
        except Unable as exc:
            self.app.display_warning(f"pywsapp is built without its compiled twin: {exc}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Forget what is now in the wheel."""
        self._work.cleanup()


def modules() -> dict[str, Path]:
    """Give what has a twin: a path in the package, without a suffix, and the file that is compiled."""
    found = {}
    for declarations in sorted(SOURCE.rglob("*.pxd")):
        candidates = [declarations.with_suffix(suffix) for suffix in (".pyx", ".py")]
        source = next(filter(Path.exists, candidates), None)
        if source is not None:
            found[source.relative_to(SOURCE).with_suffix("").as_posix()] = source
    return found


def extensions_in_place() -> set[Path]:
    """Find the compiled modules that this Python would import from the source tree."""
    return {path for path in SOURCE.rglob("*") if path.name[path.name.find(".") :] in EXTENSION_SUFFIXES}


def fault_in_place() -> str | None:
    """Say why the twin in place must not be used; None if it may, and if there is none."""
    twin = extensions_in_place()
    wanted = {SOURCE / f"{name}{SUFFIX}" for name in modules()}
    if not twin:
        return None
    for path in sorted(twin ^ wanted):
        what = "has no .pxd" if path in twin else "is missing"
        return f"{path.relative_to(ROOT)} {what}"
    made = min(path.stat().st_mtime for path in twin)
    for name in modules():
        for source in [*(SOURCE / name).parent.glob(f"{Path(name).name}.p[xy]*"), SELF]:
            if source.stat().st_mtime > made:
                return f"{source.relative_to(ROOT)} is newer than what is compiled"
    return None


def remove_extensions() -> None:
    """Remove the twin in place, that of other Pythons excepted."""
    for path in extensions_in_place():
        path.unlink(missing_ok=True)


def build_in_place() -> None:
    """Make the twin in place complete and up to date.

    Raises:
        Unable: it could not be compiled; there is none then.
    """
    # Of every state that matters to what is compiled; within one, only what changed is compiled again.
    state = [sys.version, SUFFIX, *map(os.environ.get, ("CC", "CFLAGS", "LDFLAGS")), SELF.read_text()]
    work = ROOT / "build" / f"twin-{hashlib.sha256(repr(state).encode()).hexdigest()[:12]}"
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        if extensions_in_place() and fault_in_place() is None:
            return
        began = time.time()
        try:
            twin = compile_extensions(work)
        except Unable:
            remove_extensions()
            raise
        # Copies are moved into place: half a file is never seen, and what a running program has mapped stays as it is.
        fresh = work / "fresh"
        for name, path in twin.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, fresh / name)
            os.utime(fresh / name, (began, began))  # what was edited meanwhile is newer
        remove_extensions()
        for name in twin:
            (fresh / name).replace(SOURCE / name)


def compile_extensions(work: Path) -> dict[str, Path]:
    """Compile all modules in a process of its own, for compilers print pages and setuptools patches what it meets.

    Args:
        work: a directory to work in.

    Returns:
        The names of the compiled files in the package, and where they are.

    Raises:
        Unable: it cannot be done; what the compilers said is in `work`, in the file log.
    """
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise NoTools("it is made for CPython with its global lock")
    log = work / "log"
    variables = {**os.environ, "LC_ALL": "C"}  # what is searched for below is English
    with log.open("w") as out:
        # From SOURCE, so that tracebacks name a module by its path in the package and not by that on this machine.
        command = [sys.executable, str(SELF), "--work", str(work)]
        status = subprocess.call(command, cwd=SOURCE, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    twin = {f"{name}{SUFFIX}": work / "lib" / f"{name}{SUFFIX}" for name in modules()}
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if status == NO_TOOLS:
        raise NoTools(said[-1])
    if status != 0 or not all(path.is_file() for path in twin.values()):
        errors = [line for line in said if re.match(r"\S+:\d+:\d+: (?!warning|note)|\S+: (fatal )?error", line)]
        raise Unable(next(iter(errors + said[-1:]), "the compiler made nothing, and said nothing"))
    return twin


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Let one process at a time work in a directory."""
    with (work / "lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _work_in(work: Path) -> int:
    try:
        from Cython.Build import cythonize
        from setuptools import Distribution, Extension
        from setuptools.command.build_ext import build_ext
    except ImportError as exc:
        print(f"{exc.name} is not installed")
        return NO_TOOLS

    def build(extensions: list[Any]) -> None:
        command = build_ext(Distribution({"name": "pywsapp", "ext_modules": extensions}))
        command.build_lib, command.build_temp = str(work / "lib"), str(work / "objects")
        command.parallel = os.cpu_count()
        command.ensure_finalized()
        command.run()

    probe = work / "probe.c"
    probe.write_text("#include <Python.h>\nPyMODINIT_FUNC PyInit_probe(void) { return NULL; }\n")
    try:
        build([Extension("probe", [str(probe)])])
    except Exception as exc:
        print(exc, "no C compiler here that finds Python.h", sep="\n")
        return NO_TOOLS
    flags = [] if sys.platform == "win32" else ["-O3", "-g0"]
    extensions = [
        Extension(name.replace("/", "."), [str(source.relative_to(SOURCE))], extra_compile_args=flags)
        for name, source in modules().items()
    ]
    options = {"include_path": ["."], "compiler_directives": DIRECTIVES, "quiet": True}
    build(cythonize(extensions, build_dir=str(work / "c"), **options))  # type: ignore[no-untyped-call]
    return 0


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        return _work_in(Path(sys.argv[2]))
    try:
        build_in_place()
    except Unable as exc:
        print(f"hatch_build.py: there is no compiled twin: {exc}", file=sys.stderr)
        return NO_TOOLS if isinstance(exc, NoTools) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
