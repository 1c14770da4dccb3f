"""Run tests on extension modules that AddressSanitizer and UndefinedBehaviorSanitizer watch.

sanitize.py                                 everything: the tests below, the fuzz corpus, and 1000 calls of each
                                            entry point with hostile arguments
sanitize.py tests/protocol -k masking       a part of the tests; all arguments but these two options go to pytest
sanitize.py --calls 20000 --seed 7          only the entry points, with more calls and other choices

A copy of the tree is compiled in build/sanitize, so the checkout keeps its own extension modules. The sanitizers are
those of gcc. Their libraries are loaded before Python. Python allocates each object by itself (PYTHONMALLOC=malloc), so
that reading one byte behind any of them is found. The first finding ends its process. All findings are in
build/sanitize/reports, and printed at the end: AddressSanitizer writes a file for each process, and what
UndefinedBehaviorSanitizer writes is in the standard error of the tests.

A run begins with two checks of itself: every extension module calls both sanitizers, and they find the faults that a
small extension module makes on purpose. Exit status: 1 after a finding or a failed test, 3 without gcc's sanitizers.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "sanitize"
MISSING_TOOLS = 3
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.so")
LEFT_OUT_OF_ROOT = {"build", "dist", "examples"}
#: What uses extension modules: the protocol and its property tests, connections, and the corpus of the fuzz targets.
TESTS = [
    *("tests/protocol", "tests/outbox", "tests/lifecycle", "tests/connection", "tests/build/test_compiled.py"),
    "tests/tools/test_fuzz_targets.py",
]
CALLS = 1000
TIMEOUT = 600  # seconds for one test, which takes several times as long as usual
# -fno-wrapv: Python's own flags define what happens when a number of C overflows, and the sanitizer then accepts it.
CFLAGS = [
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-wrapv", "-fno-omit-frame-pointer"),
    *("-O1", "-g1", "-UNDEBUG"),
]
LDFLAGS = ["-fsanitize=address,undefined"]
#: Without these symbols a module is not watched.
SYMBOLS = (b"__asan_init", b"__ubsan_handle")
ASAN_OPTIONS = {
    # Python never frees many of its own objects, such as interned strings and types; each of them would be a finding.
    "detect_leaks": 0,
    # Tests ask for more memory than there is, and expect MemoryError.
    "allocator_may_return_null": 1,
    # faulthandler, which some tests enable, must not replace the handler that writes the report.
    "handle_segv": 2,
    "detect_stack_use_after_return": 1,
}
UBSAN_OPTIONS = {"halt_on_error": 1, "print_stacktrace": 1, "abort_on_error": 1}
#: The file in the directory of reports that standard error goes to, and what its findings contain.
STDERR = "stderr"
UNDEFINED = "runtime error: "

#: The faults of the self-check: an expression of Python on the module, and what its report contains.
FAULTS = {
    "probe.read_behind(bytes(8))": "heap-buffer-overflow",
    "probe.read_freed()": "heap-use-after-free",
    "probe.overflow(2**31 - 1)": "signed integer overflow",
    "probe.crash()": "SEGV",
}
PROBE = """
#include <Python.h>
static PyObject *read_behind(PyObject *self, PyObject *data) {
    return PyLong_FromLong(PyBytes_AS_STRING(data)[PyBytes_GET_SIZE(data) + 1]);
}
static PyObject *read_freed(PyObject *self, PyObject *unused) {
    volatile char *memory = malloc(100);
    free((void *)memory);
    return PyLong_FromLong(memory[50]);
}
static PyObject *overflow(PyObject *self, PyObject *number) {
    volatile int value = (int)PyLong_AsLong(number);
    return PyLong_FromLong(value + 1);
}
static PyObject *crash(PyObject *self, PyObject *unused) {
    volatile long *nowhere = (long *)8;
    return PyLong_FromLong(*nowhere);
}
static PyMethodDef methods[] = {
    {"read_behind", read_behind, METH_O, ""}, {"read_freed", read_freed, METH_NOARGS, ""},
    {"overflow", overflow, METH_O, ""}, {"crash", crash, METH_NOARGS, ""}, {NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "probe", "", -1, methods};
PyMODINIT_FUNC PyInit_probe(void) { return PyModule_Create(&module); }
"""


class SanitizeError(Exception):
    """The run cannot begin, or means nothing; the message says why."""


class MissingTools(SanitizeError):
    """There is no gcc, or it has no sanitizers."""


def compiler() -> list[str]:
    """Return the command of the C compiler."""
    return shlex.split(os.environ.get("CC") or "gcc")


def libraries() -> list[Path]:
    """Return the libraries to load before Python.

    Raises:
        MissingTools: the compiler does not have them.
    """
    found = []
    # A module in C++, such as that of greenlet, must find the functions for exceptions in the sanitizer's library.
    for name in ("libasan.so", "libubsan.so", "libstdc++.so.6"):  # libasan first: the others write through it
        try:
            printed = subprocess.run([*compiler(), f"-print-file-name={name}"], capture_output=True, text=True).stdout
        except FileNotFoundError:
            raise MissingTools(f"there is no {compiler()[0]}") from None
        path = Path(printed.strip())
        if not path.is_absolute():
            raise MissingTools(f"{compiler()[0]} has no {name}")
        found.append(path)
    return found


def environment(reports: Path) -> dict[str, str]:
    """Return the environment of a Python that the sanitizers watch; they write their findings into a directory."""
    reports.mkdir(parents=True, exist_ok=True)
    variables = {name: value for name, value in os.environ.items() if name not in ("PYWSAPP_PURE", "PYTHONPATH")}
    options = {
        "ASAN_OPTIONS": joined({**ASAN_OPTIONS, "log_path": reports / "address"}),
        "UBSAN_OPTIONS": joined(UBSAN_OPTIONS),
        "LD_PRELOAD": " ".join(map(str, libraries())),
    }
    return {**variables, **options, "PYTHONMALLOC": "malloc", "PYTHONUNBUFFERED": "1"}


def joined(options: dict[str, Any]) -> str:
    return ":".join(f"{name}={value}" for name, value in options.items())


def findings(reports: Path) -> list[str]:
    """Return what the sanitizers have written into a directory."""
    found = []
    for path in sorted(reports.glob("*")):
        text = path.read_text(errors="replace")
        if path.name != STDERR:
            found.append(text)
        elif UNDEFINED in text:
            found.append(text[text.rfind("\n", 0, text.index(UNDEFINED)) + 1 :][:5000])
    return found


def call(command: list[str], directory: Path, variables: dict[str, str], reports: Path) -> int:
    """Run a program and return its status; its standard error goes to the reports."""
    with (reports / STDERR).open("a") as stderr:
        return subprocess.call(command, cwd=directory, env=variables, stderr=stderr)


def unwatched(modules: list[Path]) -> list[Path]:
    """Return the extension modules that do not call both sanitizers."""
    return [path for path in modules if not all(symbol in path.read_bytes() for symbol in SYMBOLS)]


def compile_probe(work: Path, flags: list[str]) -> Path:
    """Compile the extension module that makes faults on purpose.

    Raises:
        SanitizeError: it cannot be compiled.
    """
    work.mkdir(parents=True, exist_ok=True)
    source, module = work / "probe.c", work / f"probe{sysconfig.get_config_var('EXT_SUFFIX')}"
    source.write_text(PROBE)
    include = sysconfig.get_paths()["include"]
    command = [*compiler(), "-shared", "-fPIC", f"-I{include}", *flags, str(source), "-o", str(module)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SanitizeError(f"the compiler failed: {done.stderr[-1000:]}")
    return module


def check_itself(work: Path, flags: list[str] | None = None) -> None:
    """Check that the sanitizers find faults.

    Args:
        work: a directory for files.
        flags: how the faulty module is compiled; None as all modules are.

    Raises:
        SanitizeError: a fault is not found.
    """
    compile_probe(work, CFLAGS if flags is None else flags)
    for number, (expression, kind) in enumerate(FAULTS.items()):
        reports = work / f"reports-{number}"
        shutil.rmtree(reports, ignore_errors=True)
        code = f"import probe\n{expression}\nprint('not found')"
        status = call([sys.executable, "-c", code], work, environment(reports), reports)
        if status == 0 or kind not in "".join(findings(reports)):
            raise SanitizeError(f"the sanitizers do not find {kind} in {expression}")


def copy_tree(tree: Path) -> None:
    """Bring the copy of the tree up to date; compiled files outside of `src` are kept for the next run."""
    tree.mkdir(parents=True, exist_ok=True)
    for path in tree.iterdir():
        if path.name != "build":
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def left_out(directory: str, names: list[str]) -> set[str]:
        return LEFT_OUT(directory, names) | (LEFT_OUT_OF_ROOT if Path(directory) == ROOT else set())

    shutil.copytree(ROOT, tree, ignore=left_out, dirs_exist_ok=True)


def compile_tree(tree: Path) -> None:
    """Compile the extension modules of the copy.

    Raises:
        MissingTools: Cython or a C compiler is missing.
        SanitizeError: they cannot be compiled, or the sanitizers do not watch them.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYWSAPP_PURE"}
    variables |= {"CC": shlex.join(compiler()), "CFLAGS": shlex.join(CFLAGS), "LDFLAGS": shlex.join(LDFLAGS)}
    status = subprocess.call([sys.executable, str(tree / "hatch_build.py")], env=variables)
    if status == MISSING_TOOLS:
        raise MissingTools("the extension modules cannot be compiled")
    modules = sorted((tree / "src").rglob("*.so"))
    if status != 0 or not modules:
        raise SanitizeError("the extension modules could not be compiled")
    wrong = unwatched(modules)
    if wrong:
        raise SanitizeError(f"the sanitizers do not watch {', '.join(path.name for path in wrong)}")
    print(f"the sanitizers watch {len(modules)} extension modules", flush=True)


def run(tree: Path, reports: Path, tests: list[str], calls: int, seed: int) -> list[str]:
    """Run tests and entry points on the copy; return what failed.

    Args:
        tree: the copy.
        reports: the directory for findings.
        tests: arguments of pytest; with none, it does not run.
        calls: of each entry point; with 0, they are not called.
        seed: of the choices of hostile arguments.
    """
    variables = environment(reports) | {"PYTHONPATH": str(tree / "src")}
    failed = []
    if tests:
        # pytest's own handler of crashes would only print a stack of Python, and what it captures is lost in a crash.
        options = ["-p", "no:faulthandler", "-p", "no:cacheprovider", "--capture=sys", "-q", f"--timeout={TIMEOUT}"]
        if call([sys.executable, "-m", "pytest", *options, *tests], tree, variables, reports) != 0:
            failed.append("the tests")
    if calls:
        program = tree / "tests" / "support" / "entry_points.py"
        command = [sys.executable, str(program), "--calls", str(calls), "--seed", str(seed)]
        if call(command, tree, variables, reports) != 0:
            print((reports / STDERR).read_text(errors="replace")[-3000:])
            failed.append("the entry points")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, help=f"of each entry point (default: {CALLS}, or 0 if tests are selected)")
    parser.add_argument("--seed", type=int, default=1, help="of the hostile arguments (default: %(default)s)")
    args, tests = parser.parse_known_args()
    calls = args.calls if args.calls is not None else 0 if tests else CALLS
    if not tests and args.calls is None:
        tests = ["-n", "2", "--dist", "loadfile", *TESTS]
    tree, reports = BUILD / "tree", BUILD / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    try:
        check_itself(BUILD / "probe")
        copy_tree(tree)
        compile_tree(tree)
        failed = run(tree, reports, tests, calls, args.seed)
    except SanitizeError as exc:
        print(f"sanitize.py: {exc}", file=sys.stderr)
        return MISSING_TOOLS if isinstance(exc, MissingTools) else 1
    found = findings(reports)
    for report in found:
        print(report)
    print(f"sanitize.py: {len(found)} findings; failed: {', '.join(failed) or 'nothing'}")
    return 1 if found or failed else 0


if __name__ == "__main__":
    sys.exit(main())
