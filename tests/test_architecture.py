"""The laws of ARCHITECTURE.md, read off the source; each check is tried on a small bad example as well."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pywsapp

SRC = Path(__file__).parent.parent / "src"

#: A module belongs to the floor that its name, or the name of a package around it, stands on.
FLOORS: list[set[str]] = [
    {"pywsapp.twin", "pywsapp.values"},
    {"pywsapp.protocol"},
    {
        "pywsapp.broadcasting",
        "pywsapp.component",
        "pywsapp.connection",
        "pywsapp.flushing",
        "pywsapp.lending",
        "pywsapp.outbox",
        "pywsapp.subscriber",
        "pywsapp.topics",
        "pywsapp.waiting",
    },
    {"pywsapp.lifecycle", "pywsapp.worker"},
    {"pywsapp.components"},
    {"pywsapp.backends", "pywsapp.hosting"},
    {"pywsapp.app", "pywsapp.client", "pywsapp.publisher", "pywsapp.routes", "pywsapp.testing"},
    {"pywsapp"},
    {"pywsapp.cli", "pywsapp.__main__", "pywsapp.demo"},
]
NOT_IN_PROTOCOL = {"anyio", "asyncio", "logging", "socket", "ssl", "time", "trio"}
ONLY_IN_PROTOCOL = {"h11", "wsproto"}
DEPENDENCIES = {"anyio", "typing_extensions", "wsproto"}
MAY_IMPORT_LATE = ("pywsapp.backends", "pywsapp.cli")
DRAWERS = {"common", "helpers", "misc", "utils"}
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Import:
    """One module that another imports."""

    module: str
    line: int
    for_types: bool  # under `if TYPE_CHECKING`, so it does not happen at run time
    late: bool  # inside a function


@dataclass(frozen=True)
class Module:
    """One file of the source."""

    name: str
    text: str
    tree: ast.Module
    imports: tuple[Import, ...]


def read_modules(src: Path) -> dict[str, Module]:
    """Read all modules below a directory, by their dotted names."""
    paths = {_dotted(path.relative_to(src)): path for path in sorted(src.rglob("*.py"))}
    modules = {}
    for name, path in paths.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        modules[name] = Module(name, text, tree, tuple(_imports(tree, set(paths))))
    return modules


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(node: ast.AST, known: set[str], *, for_types: bool = False, late: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, for_types, late)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            for module in sorted({_source_of(base, alias.name, known) for alias in child.names}):
                yield Import(module, child.lineno, for_types, late)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(ast.Module(child.body, []), known, for_types=True, late=late)
            yield from _imports(ast.Module(child.orelse, []), known, for_types=for_types, late=late)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports(child, known, for_types=for_types, late=late or inside)


def _source_of(base: str, name: str, known: set[str]) -> str:
    """`from package import name` imports a module of that name if there is one, and else from the package itself."""
    return f"{base}.{name}" if f"{base}.{name}" in known else base


def floor_of(name: str) -> int | None:
    """Give the number of a module's floor; None if it has none."""
    while name != "pywsapp":
        for number, floor in enumerate(FLOORS):
            if name in floor:
                return number
        name = name.rpartition(".")[0]
        if name in {"", "pywsapp"}:
            return None
    return next(number for number, floor in enumerate(FLOORS) if name in floor)


def without_floor(modules: dict[str, Module]) -> list[str]:
    return [name for name in modules if floor_of(name) is None]


def imports_up(modules: dict[str, Module]) -> list[str]:
    """Find imports that do not point down, those for types included."""
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if found.module in modules and (floor_of(found.module) or 0) > (floor_of(name) or 0)
    ]


def relative_imports(modules: dict[str, Module]) -> list[str]:
    return [f"{name}:{i.line}" for name, module in modules.items() for i in module.imports if i.module.startswith(".")]


def impure_protocol(modules: dict[str, Module]) -> list[str]:
    """Find I/O, clocks and logging in the protocol, and wsproto or h11 anywhere else."""
    found = []
    for name, module in modules.items():
        inside = name.startswith("pywsapp.protocol")
        banned = NOT_IN_PROTOCOL if inside else ONLY_IN_PROTOCOL
        found += [f"{name}:{i.line} imports {i.module}" for i in module.imports if i.module.partition(".")[0] in banned]
    return found


def hosts_that_choose(modules: dict[str, Module]) -> list[str]:
    """Find hosts that know a particular component, for they run whatever they are given."""
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if name.startswith("pywsapp.hosting") and found.module.startswith("pywsapp.components")
    ]


def foreign_imports(modules: dict[str, Module]) -> list[str]:
    """Find imports of what is neither ours, nor the standard library's, nor a declared dependency."""
    allowed = {"pywsapp"} | DEPENDENCIES | sys.stdlib_module_names
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if found.module.partition(".")[0] not in allowed
        and not found.module.startswith(".")
        and not name.startswith("pywsapp.backends.")
    ]


def chosen_backends(modules: dict[str, Module]) -> list[str]:
    """Find imports of a backend, which only the person who wants it imports."""
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if found.module.startswith("pywsapp.backends.") and not name.startswith("pywsapp.backends.")
    ]


def late_imports(modules: dict[str, Module]) -> list[str]:
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if found.late and not name.startswith(MAY_IMPORT_LATE)
    ]


def import_cycle(modules: dict[str, Module]) -> list[str]:
    """Give the modules of one cycle of imports at run time; none is the empty list."""
    finished: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in finished:
            for found in modules[name].imports:
                if found.module in modules and not found.for_types and (cycle := visit(found.module, [*way, name])):
                    return cycle
            finished.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in modules)), [])


def drawers(modules: dict[str, Module]) -> list[str]:
    """Find modules whose name says nothing, where unrelated things come to meet."""
    return [name for name in modules if DRAWERS & {part.strip("_") for part in name.split(".")}]


def too_long(modules: dict[str, Module]) -> list[str]:
    """Find files, and functions without their docstrings, that are longer than one idea."""
    found = []
    for name, module in modules.items():
        lines = module.text.count("\n")
        if lines > MAX_FILE_LINES:
            found.append(f"{name}: {lines} lines")
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if size > MAX_FUNCTION_LINES:
                    found.append(f"{name}:{node.lineno} {node.name}: {size} lines")
    return found


def without_docstring(modules: dict[str, Module]) -> list[str]:
    return [name for name, module in modules.items() if not ast.get_docstring(module.tree)]


def exported(module: Module) -> tuple[set[str], set[str]]:
    """Give the names in a package's `__all__`, and the public names it really binds."""
    declared: set[str] = set()
    bound: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            bound.add(name)
            if name == "__all__":
                declared = set(ast.literal_eval(node.value))
    return declared, {name for name in bound if not name.startswith("_")}


Check = Callable[[dict[str, Module]], list[str]]

CHECKS: list[Check] = [
    without_floor,
    imports_up,
    relative_imports,
    impure_protocol,
    hosts_that_choose,
    foreign_imports,
    chosen_backends,
    late_imports,
    import_cycle,
    drawers,
    too_long,
    without_docstring,
]


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return read_modules(SRC)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_source_keeps_the_law(check: Check, modules: dict[str, Module]) -> None:
    assert check(modules) == []


def test_all_modules_are_seen(modules: dict[str, Module]) -> None:
    assert {"pywsapp", "pywsapp.component", "pywsapp.protocol.websocket", "pywsapp.values.options"} <= set(modules)


def test_all_names_what_the_package_exports(modules: dict[str, Module]) -> None:
    declared, bound = exported(modules["pywsapp"])
    assert declared - {"__version__"} == bound
    assert [name for name in sorted(declared) if not hasattr(pywsapp, name)] == []


GOOD = {
    "pywsapp/__init__.py": '"""Top."""\nfrom pywsapp.app import App\n__all__ = ["App"]\n',
    "pywsapp/app.py": '"""App."""\nimport anyio\nfrom pywsapp.values import errors\nclass App: pass\n',
    "pywsapp/values/__init__.py": '"""Values."""\n',
    "pywsapp/values/errors.py": '"""Errors."""\n' + "x = 1\n" * (MAX_FILE_LINES - 1),
    "pywsapp/values/close.py": '"""Close."""\ndef f():\n    "Work."\n' + "    x = 1\n" * MAX_FUNCTION_LINES,
    "pywsapp/protocol/http.py": '"""HTTP."""\nfrom wsproto import events\nfrom pywsapp.values.errors import X\n',
    "pywsapp/backends/isal.py": '"""Compression."""\nimport isal\n',
    "pywsapp/backends/nats.py": '"""Broker."""\nfrom pywsapp.backends.isal import compressor\n',
    "pywsapp/cli.py": '"""CLI."""\ndef main():\n    import pywsapp.app\n',
}
LONG_FUNCTION = "def f():\n    'Work.'\n" + "    x = 1\n" * (MAX_FUNCTION_LINES + 1)
BAD: list[tuple[Check, str, str | None]] = [
    (without_floor, "pywsapp/cellar.py", ""),
    (without_floor, "pywsapp/cellar/wine.py", ""),
    (imports_up, "pywsapp/values/request.py", "from pywsapp.app import App"),
    (imports_up, "pywsapp/values/request.py", "import pywsapp"),
    (imports_up, "pywsapp/connection.py", "if TYPE_CHECKING:\n    from pywsapp import app"),
    (relative_imports, "pywsapp/values/request.py", "from . import errors"),
    (relative_imports, "pywsapp/values/request.py", "from .errors import X"),
    (impure_protocol, "pywsapp/protocol/frames.py", "import socket"),
    (impure_protocol, "pywsapp/protocol/frames.py", "from time import monotonic"),
    (impure_protocol, "pywsapp/protocol/frames.py", "import asyncio.events"),
    (impure_protocol, "pywsapp/lifecycle.py", "from wsproto.events import Ping"),
    (impure_protocol, "pywsapp/hosting/sockets.py", "import h11"),
    (hosts_that_choose, "pywsapp/hosting/server.py", "from pywsapp.components.router import Router"),
    (foreign_imports, "pywsapp/app.py", "import uvloop"),
    (foreign_imports, "pywsapp/app.py", "from trio.socket import socket"),
    (foreign_imports, "pywsapp/app.py", "class C:\n    def f(self):\n        import redis"),
    (chosen_backends, "pywsapp/app.py", "from pywsapp.backends.isal import compressor"),
    (late_imports, "pywsapp/app.py", "def f():\n    import json"),
    (
        late_imports,
        "pywsapp/app.py",
        "class C:\n    async def f(self):\n        if self:\n            from os import path",
    ),
    (import_cycle, "pywsapp/values/errors.py", "from pywsapp.app import App"),
    (import_cycle, "pywsapp/values/errors.py", "import pywsapp.values.errors"),
    (drawers, "pywsapp/values/utils.py", ""),
    (drawers, "pywsapp/_helpers/text.py", ""),
    (too_long, "pywsapp/app.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    (too_long, "pywsapp/app.py", LONG_FUNCTION),
    (without_docstring, "pywsapp/app.py", None),
]


def written(root: Path, files: dict[str, str]) -> dict[str, Module]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_modules(root)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check_passes_a_good_example(check: Check, tmp_path: Path) -> None:
    assert check(written(tmp_path, GOOD)) == []


@pytest.mark.parametrize(("check", "file", "code"), BAD)
def test_check_finds_a_bad_example(check: Check, file: str, code: str | None, tmp_path: Path) -> None:
    text = "" if code is None else f'"""Bad."""\n{code}\n'
    assert check(written(tmp_path, {**GOOD, file: text})) != []


def test_type_checking_imports_make_no_cycle(tmp_path: Path) -> None:
    text = '"""Errors."""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pywsapp.app import App\n'
    assert import_cycle(written(tmp_path, {**GOOD, "pywsapp/values/errors.py": text})) == []


@pytest.mark.parametrize(
    "code",
    [
        "from pywsapp.app import App, Extra\n__all__ = ['App']",
        "from pywsapp.app import App\n__all__ = ['App', 'Extra']",
        "from pywsapp.app import App as Other\n__all__ = ['App']",
        "def helper(): ...\n__all__ = []",
        "public = 1\n__all__ = []",
    ],
)
def test_export_that_differs_from_all_is_seen(code: str, tmp_path: Path) -> None:
    declared, bound = exported(written(tmp_path, {"pywsapp/__init__.py": code})["pywsapp"])
    assert declared != bound
