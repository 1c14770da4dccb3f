"""Compile the extension modules: into a wheel when hatchling builds one, or in place with `python hatch_build.py`.

Cython compiles every module that has a `.pxd` file. It compiles the `.py`, or the `.pyx` beside it where CPython lacks
an operation. The extension module lies beside its source and has the same name; Python imports it instead of the
source. With `PYWSAPP_PURE=1` a wheel has no extension modules, and installed ones are not imported.

The build compiles all of the modules or none of them, because a compiled module relies on the layout of the others.

Exit status in place: 0 if the extension modules are complete and newer than their sources; 3 if Cython or a C compiler
is missing; 1 if the compilation failed. There are no extension modules after 1 and 3.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
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
MISSING_TOOLS = 3
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # the .pxd declares the types; hints stay hints and allow None and subclasses
    "allow_none_for_extension_args": False,  # code that reads the size of None as bytes would read invalid memory
    "auto_pickle": False,  # no methods that set the attributes of an object, unchecked, to what a pickle contains
    "nonecheck": True,  # for the same reason: attributes are None in an object whose `__init__` did not run
}
#: Warnings that are errors in GCC 14. They are errors for every compiler, so a build with an older one finds them too.
ERRORS_OF_NEW_COMPILERS = ("incompatible-pointer-types", "int-conversion", "implicit-function-declaration")


class BuildError(Exception):
    """The extension modules could not be compiled; the message is one line and says why."""


class MissingTools(BuildError):
    """Cython, setuptools or a C compiler is missing."""


class CompiledBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Add the extension modules to a wheel, which is then for this platform and Python only; hatchling's hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the extension modules; if that fails, print a warning and build a wheel for any platform."""
        pure = bool(os.environ.get("PYWSAPP_PURE"))
        self._work = TemporaryDirectory(prefix="pywsapp-")
        try:
            if version == "editable":
                remove_extensions() if pure else build_in_place()
            elif not pure:
                extensions = compile_extensions(Path(self._work.name))
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
                build_data["force_include"].update({str(path): name for name, path in extensions.items()})
        except BuildError as exc:
            self.app.display_warning(f"pywsapp is built without its extension modules: {exc}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the files that are in the wheel now."""
        self._work.cleanup()


def modules() -> dict[str, Path]:
    """Return the modules to compile: the path in the source tree without a suffix, and the source file."""
    found = {}
    for declarations in sorted(SOURCE.rglob("*.pxd")):
        candidates = [declarations.with_suffix(suffix) for suffix in (".pyx", ".py")]
        source = next(filter(Path.exists, candidates), None)
        if source is not None:
            found[source.relative_to(SOURCE).with_suffix("").as_posix()] = source
    return found


def extensions_in_place() -> set[Path]:
    """Return the extension modules that this Python would import from the source tree."""
    return {path for path in SOURCE.rglob("*") if path.name[path.name.find(".") :] in EXTENSION_SUFFIXES}


def fault_in_place() -> str | None:
    """Return why the extension modules in place must not be used; None if they can be used or there are none."""
    found = extensions_in_place()
    expected = {SOURCE / f"{name}{SUFFIX}" for name in modules()}
    if not found:
        return None
    for path in sorted(found ^ expected):
        problem = "has no .pxd" if path in found else "is missing"
        return f"{path.relative_to(ROOT)} {problem}"
    built = min(path.stat().st_mtime for path in found)
    for name in modules():
        for source in [*(SOURCE / name).parent.glob(f"{Path(name).name}.p[xy]*"), SELF]:
            if source.stat().st_mtime > built:
                return f"{source.relative_to(ROOT)} is newer than the extension modules"
    return None


def remove_extensions() -> None:
    """Remove the extension modules in place, except those of other Pythons."""
    for path in extensions_in_place():
        path.unlink(missing_ok=True)


def build_in_place() -> None:
    """Compile the extension modules in place, unless they are complete and up to date.

    Raises:
        BuildError: the compilation failed; there are no extension modules then.
    """
    # One directory for each state that influences the result; inside one, only changed modules are compiled again.
    state = [sys.version, SUFFIX, *map(os.environ.get, ("CC", "CFLAGS", "LDFLAGS")), SELF.read_text()]
    work = ROOT / "build" / f"extensions-{hashlib.sha256(repr(state).encode()).hexdigest()[:12]}"
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work):
        if extensions_in_place() and fault_in_place() is None:
            return
        began = time.time()
        try:
            extensions = compile_extensions(work)
        except BuildError:
            remove_extensions()
            raise
        # Copies are moved into place: no program imports half a file, and a running program keeps the file it mapped.
        copies = work / "copies"
        for name, path in extensions.items():
            (copies / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copies / name)
            os.utime(copies / name, (began, began))  # a source that was edited during the build is newer
        remove_extensions()
        for name in extensions:
            (copies / name).replace(SOURCE / name)


def compile_extensions(work: Path) -> dict[str, Path]:
    """Compile all modules in a separate process, because compilers print much and setuptools patches other modules.

    Args:
        work: the directory for intermediate and compiled files.

    Returns:
        For the path of each extension module in the source tree, the compiled file.

    Raises:
        BuildError: the compilation failed; the output of the compilers is in the file `log` in `work`.
    """
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise MissingTools("they need CPython with its global interpreter lock")
    log = work / "log"
    variables = {**os.environ, "LC_ALL": "C"}  # the search for errors below expects English
    with log.open("w") as out:
        # In SOURCE, so that tracebacks name a module by its path in the package and not by its path on this machine.
        command = [sys.executable, str(SELF), "--work", str(work)]
        status = subprocess.call(command, cwd=SOURCE, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    extensions = {f"{name}{SUFFIX}": work / "lib" / f"{name}{SUFFIX}" for name in modules()}
    output = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if status == MISSING_TOOLS:
        raise MissingTools(output[-1])
    if status != 0 or not all(path.is_file() for path in extensions.values()):
        errors = [line for line in output if re.match(r"\S+:\d+:\d+: (?!warning|note)|\S+: (fatal )?error", line)]
        raise BuildError(next(iter(errors + output[-1:]), "the compiler wrote no files and no message"))
    return extensions


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold a lock on a directory, so that one process at a time builds in it."""
    with (work / "lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _without_generics(source: Path, work: Path) -> str:
    """Return the path of a source file, or of a copy without `Generic`, which an extension type cannot inherit from."""
    path, text = source.relative_to(SOURCE), source.read_text(encoding="utf-8")
    plain = re.sub(r"^(class \w+)\(Generic\[\w+\]\):$", r"\1:", text, flags=re.MULTILINE)
    if plain == text:
        return str(path)
    copy = work / "plain" / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    # Cython does not find the .pxd files that a copy depends on, so after a change of any of them the copy must be new.
    changed = max(one.stat().st_mtime for one in SOURCE.rglob("*.pxd"))
    if not copy.exists() or copy.read_text(encoding="utf-8") != plain or copy.stat().st_mtime < changed:
        copy.write_text(plain, encoding="utf-8")
    return str(copy)


def _compile_in(work: Path) -> int:
    """Compile all modules in this process; return the exit status."""
    try:
        from Cython.Build import cythonize
        from setuptools import Distribution, Extension
        from setuptools.command.build_ext import build_ext
    except ImportError as exc:
        print(f"{exc.name} is not installed")
        return MISSING_TOOLS

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
        print(exc, "there is no C compiler that finds Python.h", sep="\n")
        return MISSING_TOOLS
    # CFLAGS again, because the last of several flags counts.
    errors = [f"-Werror={warning}" for warning in ERRORS_OF_NEW_COMPILERS]
    flags = [] if sys.platform == "win32" else ["-O3", "-g0", *errors, *shlex.split(os.environ.get("CFLAGS", ""))]
    extensions = [
        Extension(name.replace("/", "."), [_without_generics(source, work)], extra_compile_args=flags)
        for name, source in modules().items()
    ]
    options = {"include_path": ["."], "compiler_directives": DIRECTIVES, "quiet": True}
    build(cythonize(extensions, build_dir=str(work / "c"), **options))  # type: ignore[no-untyped-call]
    return 0


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        return _compile_in(Path(sys.argv[2]))
    try:
        build_in_place()
    except BuildError as exc:
        print(f"hatch_build.py: the extension modules are not built: {exc}", file=sys.stderr)
        return MISSING_TOOLS if isinstance(exc, MissingTools) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
