"""Change the source a little, again and again, and list the changes that no test notices.

mutate.py                                  40 changes of the protocol core
mutate.py topics/presence --count 20       20 changes of a package; a path is relative to src/pywsapp
mutate.py _protocol/limits.py --seed 7     another sample

A change ("mutant") replaces a comparison, `and`, `or` or a constant, negates a condition, or removes a statement. The
tests that mirror the changed module run on it, on the pure Python build, in a temporary copy of the tree. They must
fail, or exceed the time limit. A mutant on which they pass "survives": a test is missing, or the change makes no
difference. The score is the share of mutants that did not survive. Exit status: 1 if the tests fail without a change.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import difflib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("src", "pywsapp")
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.so", "build", "dist", "corpus"
)
#: The tests of modules whose name is not the name of a test directory or of a test file.
TESTS = {
    "_access.py": ["auth"],
    "_addresses.py": ["test_addresses.py"],
    "_event_loop.py": ["server", "lifecycle"],
    "_hooks": ["component"],
    "_request_state.py": ["auth"],
    "_signatures.py": ["component", "app"],
    "http.py": ["test_request.py", "test_response.py"],
}
MAX_MEMORY = 4 << 30  # bytes of address space; a changed bound can fill the memory
SHORTEST_LIMIT = 20.0  # seconds

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


class Mutant(NamedTuple):
    """One change of one file.

    Attributes:
        path: the file, relative to the tree.
        line: where the change begins.
        start: the first changed byte of the file.
        stop: the byte behind the change.
        text: what replaces these bytes.
    """

    path: Path
    line: int
    start: int
    stop: int
    text: str

    def apply(self, source: bytes) -> bytes:
        """Return the source with the change."""
        return source[: self.start] + self.text.encode() + source[self.stop :]

    def diff(self, source: bytes) -> str:
        """Return the change as lines of a diff, without a header."""
        before, after = source.decode().splitlines(), self.apply(source).decode().splitlines()
        changed = difflib.unified_diff(before, after, n=0, lineterm="")
        return "\n".join(line for line in changed if not line.startswith(("---", "+++", "@@")))


class Finder(ast.NodeVisitor):
    """Finds everything that can be changed in one file.

    It leaves alone what has no effect or an obvious one: annotations, decorators, docstrings, assertions, `__slots__`,
    imports for type checkers, and what is marked as not covered.
    """

    def __init__(self, path: Path, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def visit(self, node: ast.AST) -> None:
        if not self._is_excluded(node):
            super().visit(node)

    def _is_excluded(self, node: ast.AST) -> bool:
        if isinstance(node, ast.stmt) and b"pragma: no cover" in self._lines[node.lineno - 1]:
            return True
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return True
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            return True
        return isinstance(node, (ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - a name of ast

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.expr):
            self._change_expression(node)
        elif isinstance(node, ast.stmt) and _is_removable(node):
            self._add(node, "pass")
        if isinstance(node, (ast.If, ast.While, ast.IfExp)) and not isinstance(node.test, ast.Constant):
            self._negate(node.test)
        elif isinstance(node, ast.comprehension):
            for condition in node.ifs:
                self._negate(condition)
        super().generic_visit(node)

    def _negate(self, condition: ast.expr) -> None:
        if isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
            return  # _change_expression removes the `not`
        if isinstance(condition, ast.Compare) and isinstance(condition.ops[0], (ast.Eq, ast.Is, ast.In, ast.NotEq)):
            return  # another operator means the same
        self._add(condition, f"(not ({ast.unparse(condition)}))")

    def _change_expression(self, node: ast.expr) -> None:
        if isinstance(node, ast.Compare):
            for index, operator in enumerate(node.ops):
                changed = copy.deepcopy(node)
                changed.ops[index] = COMPARISONS[type(operator)]()
                self._add(node, f"({ast.unparse(changed)})")
        elif isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            self._add(node, f"({ast.unparse(ast.BoolOp(other, node.values))})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self._add(node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.Constant):
            value = node.value
            if isinstance(value, bool):
                self._add(node, str(not value))
            elif isinstance(value, (int, float)):
                self._add(node, str(value + 1))
            elif isinstance(value, bytes) and value:
                self._add(node, "b''")

    def _add(self, node: ast.expr | ast.stmt, text: str) -> None:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        stop = self._starts[node.end_lineno - 1] + node.end_col_offset
        self.found.append(Mutant(self._path, node.lineno, start, stop, text))


def _is_removable(node: ast.stmt) -> bool:
    """Return whether a program without this statement can still run: it calls, sets, deletes, raises or leaves."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, (ast.Constant, ast.Yield, ast.YieldFrom))
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], (ast.Attribute, ast.Subscript))
    return isinstance(node, (ast.AugAssign, ast.Delete, ast.Raise, ast.Break, ast.Continue))


def mutants_of(path: Path, source: bytes) -> list[Mutant]:
    """Return all changes of one file, in the order of its lines."""
    finder = Finder(path, source)
    finder.visit(ast.parse(source))
    return sorted(set(finder.found), key=lambda mutant: (mutant.start, mutant.stop, mutant.text))


def modules_in(names: list[str], root: Path) -> list[Path]:
    """Return the modules that names of files and packages stand for, relative to the tree."""
    modules: list[Path] = []
    for name in names:
        path = root / PACKAGE / name.removeprefix(f"{PACKAGE}/")
        found = [path] if path.is_file() else sorted(path.rglob("*.py"))
        if not found:
            sys.exit(f"mutate.py: {path} is no module or package")
        modules.extend(module.relative_to(root) for module in found)
    return list(dict.fromkeys(modules))


def tests_of(module: Path, root: Path) -> list[str]:
    """Return the tests that mirror a module; those with its name come first, because they fail soonest."""
    first = module.relative_to(PACKAGE).parts[0]
    name = first.removesuffix(".py").lstrip("_")
    places = TESTS.get(first, [name, f"test_{name}.py"])
    paths = [root / "tests" / place for place in places if (root / "tests" / place).exists()]
    if not paths:
        sys.exit(f"mutate.py: no tests mirror {module}")
    stem = module.stem.lstrip("_")
    named = [file for path in paths if path.is_dir() for file in sorted(path.rglob(f"test*{stem}*.py"))]
    return [str(path.relative_to(root)) for path in (*named, *paths)]


class Runner:
    """Runs tests in a copy of the tree.

    Args:
        tree: the copy.
        python: the Python with the packages of the tests.
    """

    def __init__(self, tree: Path, python: str = sys.executable) -> None:
        self._tree = tree
        self._python = python
        self.output = ""

    def run(self, tests: list[str], limit: float) -> int | None:
        """Run tests; return the exit status of pytest, or None after a limit in seconds."""
        # Bytecode is not written: a change within a second that keeps the size of a file would not be noticed.
        variables = {"PYTHONPATH": str(self._tree / "src"), "PYWSAPP_PURE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [self._python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            process = subprocess.Popen(
                command,
                cwd=self._tree,
                env={**os.environ, **variables},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY)),
            )
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end_session(process)
                output.seek(0)
                self.output = output.read()


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End the tests, and the processes that they have left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def sample(modules: list[Path], root: Path, count: int, seed: int) -> list[Mutant]:
    """Return a sample of all changes of some modules; a module with more code has more of them."""
    every = [mutant for module in modules for mutant in mutants_of(module, (root / module).read_bytes())]
    chosen = random.Random(seed).sample(every, min(count, len(every)))
    print(f"{len(chosen)} of {len(every)} possible changes of {len(modules)} modules, seed {seed}", flush=True)
    return sorted(chosen, key=lambda mutant: (mutant.path, mutant.start, mutant.text))


def survivors_of(mutants: list[Mutant], tree: Path, runner: Runner, limit: float | None) -> Iterator[Mutant]:
    """Run the tests on each change; yield those that survive.

    Args:
        mutants: the changes.
        tree: the copy of the tree, which is changed meanwhile.
        runner: runs tests in it.
        limit: seconds for one change; None for twice what the tests take without a change.
    """
    limits: dict[str, float] = {}  # of a package, by the last place of its tests
    for number, mutant in enumerate(mutants, 1):
        tests = tests_of(mutant.path, tree)
        if tests[-1] not in limits:
            limits[tests[-1]] = limit or _limit(runner, tests)
        file = tree / mutant.path
        source = file.read_bytes()
        file.write_bytes(mutant.apply(source))
        try:
            status = runner.run(tests, limits[tests[-1]])
        finally:
            file.write_bytes(source)
        survives = status == 0
        result = "survives" if survives else "too slow" if status is None else "noticed"
        print(f"{number:4} {result:<9} {mutant.path}:{mutant.line}", flush=True)
        if survives:
            print(mutant.diff(source), flush=True)
            yield mutant


def _limit(runner: Runner, tests: list[str]) -> float:
    began = time.monotonic()
    if runner.run(tests, 3600) != 0:
        print(runner.output)
        sys.exit(f"mutate.py: {' '.join(tests)} fail without a change")
    return max(SHORTEST_LIMIT, 2 * (time.monotonic() - began))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=["_protocol"], help="files and packages in src/pywsapp")
    parser.add_argument("--count", type=int, default=40, help="changes to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="selects the sample (default: %(default)s)")
    parser.add_argument("--limit", type=float, help="seconds for one change (default: twice the tests' own time)")
    parser.add_argument("--list", action="store_true", help="print the sample as diffs, and run no tests")
    args = parser.parse_args()
    modules = modules_in(args.modules, ROOT)
    mutants = sample(modules, ROOT, args.count, args.seed)
    if args.list:
        for mutant in mutants:
            print(f"{mutant.path}:{mutant.line}\n{mutant.diff((ROOT / mutant.path).read_bytes())}")
        return 0
    with tempfile.TemporaryDirectory(prefix="pywsapp-mutate-") as directory:
        tree = Path(directory, "tree")
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        survivors = list(survivors_of(mutants, tree, Runner(tree), args.limit))
    noticed = len(mutants) - len(survivors)
    share = 100 * noticed / max(len(mutants), 1)
    print(f"\nscore: {noticed} of {len(mutants)} changes were noticed ({share:.1f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
