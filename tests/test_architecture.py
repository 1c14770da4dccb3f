"""The source follows the rules of ARCHITECTURE.md, and each check finds a small bad example."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pywsapp

SRC = Path(__file__).parent.parent / "src"

#: A module belongs to the layer that contains its name, or the name of a package around it.
LAYERS: list[set[str]] = [
    {
        "pywsapp._addresses",
        "pywsapp._alarm",
        "pywsapp._clocks",
        "pywsapp._compiled",
        "pywsapp._event_loop",
        "pywsapp._extras",
        "pywsapp._histogram",
        "pywsapp._http_text",
        "pywsapp._limits",
        "pywsapp._log_fields",
        "pywsapp._request_state",
        "pywsapp._signatures",
        "pywsapp._topic_actions",
        "pywsapp._trace_hooks",
        "pywsapp._traceparent",
        "pywsapp._version",
        "pywsapp.close_codes",
        "pywsapp.codecs",
        "pywsapp.exceptions",
        "pywsapp.http",
        "pywsapp.isal",
        "pywsapp.logs",
        "pywsapp.options",
        "pywsapp.sessions.session",
    },
    {"pywsapp._protocol", "pywsapp._transports"},
    {"pywsapp._outbox"},
    {
        "pywsapp._clients",
        "pywsapp._access",
        "pywsapp._authorize",
        "pywsapp._connection_driver",
        "pywsapp._hooks",
        "pywsapp._messages",
        "pywsapp.auth",
        "pywsapp.brokers",
        "pywsapp.component",
        "pywsapp.connection",
        "pywsapp.sessions",
        "pywsapp.stats",
        "pywsapp.topics",
        "pywsapp.webhooks",
    },
    {"pywsapp._lifecycle"},
    {"pywsapp.auth.first_message", "pywsapp.middleware", "pywsapp.protocols", "pywsapp.routing"},
    {"pywsapp._server"},
    {"pywsapp._connecting", "pywsapp._metric_table", "pywsapp._process", "pywsapp._prometheus", "pywsapp._status"},
    {"pywsapp._schema", "pywsapp.asgi"},
    {"pywsapp.app", "pywsapp.client", "pywsapp.publisher", "pywsapp.telemetry", "pywsapp.testing"},
    {"pywsapp", "pywsapp._public"},
    {"pywsapp.__main__", "pywsapp._demo", "pywsapp.cli", "pywsapp_pytest"},
]
NOT_IN_PROTOCOL = {"anyio", "asyncio", "logging", "socket", "ssl", "time", "trio"}
ONLY_IN_PROTOCOL = {"h11", "wsproto"}
DEPENDENCIES = {"anyio", "typing_extensions", "wsproto"}
#: Packages and modules that import a third-party library; they are themselves imported on demand.
ON_DEMAND = (
    "pywsapp._clients",
    "pywsapp._connecting.socks",
    "pywsapp._prometheus",
    "pywsapp._schema",
    "pywsapp._server.development_certificate",
    "pywsapp.asgi.site",
    "pywsapp.asgi.uvicorn",
    "pywsapp.auth.django",
    "pywsapp.auth.jwks",
    "pywsapp.auth.jwt",
    "pywsapp.auth.redis_tickets",
    "pywsapp.brokers.asyncio_bridge",
    "pywsapp.brokers.nats",
    "pywsapp.brokers.rabbitmq",
    "pywsapp.brokers.redis",
    "pywsapp.codecs.with_cbor2",
    "pywsapp.codecs.with_msgspec",
    "pywsapp.codecs.with_orjson",
    "pywsapp.codecs.with_protobuf",
    "pywsapp.codecs.with_pydantic",
    "pywsapp.isal",
    "pywsapp.sessions.django",
    "pywsapp.sessions.flask",
    "pywsapp.sessions.flask_session",
    "pywsapp.sessions.memcached",
    "pywsapp.sessions.php_redis",
    "pywsapp.sessions.redis",
    "pywsapp.sessions.signed_cookie",
    "pywsapp.sessions.starlette",
    "pywsapp.telemetry",
    "pywsapp.webhooks.with_httpx",
    "pywsapp_pytest",
)
MAY_IMPORT_LATE = ("pywsapp._clients", "pywsapp.brokers", "pywsapp.cli", "pywsapp_pytest")
VAGUE_NAMES = {"common", "helpers", "misc", "utils"}
MAX_FILE_LINES = 450
DOCUMENTED = {"pywsapp.app"}  # most of it is the documentation of the public class, which does not count
MAX_DOCUMENTED_LINES = 550  # and much of the rest is the signatures of its methods
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
    """Return the module that `from package import name` imports: a module of that name if there is one."""
    return f"{base}.{name}" if f"{base}.{name}" in known else base


def layer_of(name: str) -> int | None:
    """Return the number of a module's layer; None if it has none."""
    while name != "pywsapp":
        for number, layer in enumerate(LAYERS):
            if name in layer:
                return number
        name = name.rpartition(".")[0]
        if name in {"", "pywsapp"}:
            return None
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


def without_layer(modules: dict[str, Module]) -> list[str]:
    return [name for name in modules if layer_of(name) is None]


def imports_up(modules: dict[str, Module]) -> list[str]:
    """Find imports that point up, imports for types included."""
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if found.module in modules and (layer_of(found.module) or 0) > (layer_of(name) or 0)
    ]


def relative_imports(modules: dict[str, Module]) -> list[str]:
    return [f"{name}:{i.line}" for name, module in modules.items() for i in module.imports if i.module.startswith(".")]


def impure_protocol(modules: dict[str, Module]) -> list[str]:
    """Find I/O, clocks and logging in the protocol, and wsproto or h11 anywhere else."""
    found = []
    for name, module in modules.items():
        inside = name.startswith("pywsapp._protocol")
        banned = NOT_IN_PROTOCOL if inside else ONLY_IN_PROTOCOL
        found += [f"{name}:{i.line} imports {i.module}" for i in module.imports if i.module.partition(".")[0] in banned]
    return found


def servers_with_components(modules: dict[str, Module]) -> list[str]:
    """Find imports of components in the server, which must run any component."""
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if name.startswith("pywsapp._server") and found.module.startswith("pywsapp.routing")
    ]


def _is_on_demand(name: str) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in ON_DEMAND)


def foreign_imports(modules: dict[str, Module]) -> list[str]:
    """Find imports of packages that are not pywsapp, the standard library or a declared dependency."""
    allowed = {"pywsapp", "tomllib"} | DEPENDENCIES | sys.stdlib_module_names  # tomllib came with Python 3.11
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if found.module.partition(".")[0] not in allowed
        and not found.module.startswith(".")
        and not _is_on_demand(name)
    ]


def eager_libraries(modules: dict[str, Module]) -> list[str]:
    """Find imports at start-up of modules that need a third-party library."""
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if _is_on_demand(found.module) and not _is_on_demand(name)
    ]


def late_imports(modules: dict[str, Module]) -> list[str]:
    return [
        f"{name}:{found.line} imports {found.module}"
        for name, module in modules.items()
        for found in module.imports
        if found.late and not name.startswith(MAY_IMPORT_LATE)
    ]


def import_cycle(modules: dict[str, Module]) -> list[str]:
    """Return the modules of one cycle of imports at run time; the list is empty if there is none."""
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in finished:
            for found in modules[name].imports:
                if found.module in modules and not found.for_types and (cycle := visit(found.module, [*path, name])):
                    return cycle
            finished.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in modules)), [])


def vague_names(modules: dict[str, Module]) -> list[str]:
    """Find modules with a vague name, which collect unrelated code."""
    return [name for name in modules if VAGUE_NAMES & {part.strip("_") for part in name.split(".")}]


def too_long(modules: dict[str, Module]) -> list[str]:
    """Find modules and functions that are too long; their own docstrings and overloads do not count."""
    found = []
    for name, module in modules.items():
        documented = ast.walk(module.tree) if name in DOCUMENTED else [module.tree]
        docstrings = [
            ast.get_docstring(node, clean=False) or ""
            for node in documented
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        lines = module.text.count("\n") - "".join(docstrings).count("\n") - overload_lines(module)
        if lines > (MAX_DOCUMENTED_LINES if name in DOCUMENTED else MAX_FILE_LINES):
            found.append(f"{name}: {lines} lines")
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if size > MAX_FUNCTION_LINES:
                    found.append(f"{name}:{node.lineno} {node.name}: {size} lines")
    return found


def overload_lines(module: Module) -> int:
    """Return the lines of the overloads of a module, which repeat a signature for type checkers."""
    return sum(
        (node.end_lineno or 0) - node.lineno + 2  # the decorator too
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in node.decorator_list)
    )


def without_docstring(modules: dict[str, Module]) -> list[str]:
    return [name for name, module in modules.items() if not ast.get_docstring(module.tree)]


def exported(module: Module) -> tuple[set[str], set[str]]:
    """Return the names in a package's `__all__`, and the public names that it binds."""
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
    without_layer,
    imports_up,
    relative_imports,
    impure_protocol,
    servers_with_components,
    foreign_imports,
    eager_libraries,
    late_imports,
    import_cycle,
    vague_names,
    too_long,
    without_docstring,
]


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return read_modules(SRC)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_source_keeps_the_rules(check: Check, modules: dict[str, Module]) -> None:
    assert check(modules) == []


def test_all_modules_are_read(modules: dict[str, Module]) -> None:
    assert {"pywsapp", "pywsapp.component", "pywsapp._protocol.websocket", "pywsapp.options"} <= set(modules)


def test_all_names_what_the_package_exports(modules: dict[str, Module]) -> None:
    declared, bound = exported(modules["pywsapp._public"])
    assert declared - {"__version__"} == bound
    assert [name for name in sorted(declared) if not hasattr(pywsapp, name)] == []


GOOD = {
    "pywsapp/__init__.py": '"""Top."""\nfrom pywsapp.app import App\n__all__ = ["App"]\n',
    "pywsapp/app.py": '"""App."""\nimport anyio\nfrom pywsapp import exceptions\nclass App: pass\n',
    "pywsapp/exceptions.py": '"""Errors."""\n' + "x = 1\n" * (MAX_FILE_LINES - 1),
    "pywsapp/close_codes.py": '"""Close."""\ndef f():\n    "Work."\n' + "    x = 1\n" * MAX_FUNCTION_LINES,
    "pywsapp/_protocol/http.py": '"""HTTP."""\nfrom wsproto import events\nfrom pywsapp.exceptions import X\n',
    "pywsapp/isal.py": '"""Compression."""\nimport isal\n',
    "pywsapp/brokers/nats.py": '"""Broker."""\nfrom pywsapp.isal import compressor\n',
    "pywsapp/cli.py": '"""CLI."""\ndef main():\n    import pywsapp.app\n',
}
LONG_FUNCTION = "def f():\n    'Work.'\n" + "    x = 1\n" * (MAX_FUNCTION_LINES + 1)
BAD: list[tuple[Check, str, str | None]] = [
    (without_layer, "pywsapp/unknown.py", ""),
    (without_layer, "pywsapp/unknown/module.py", ""),
    (imports_up, "pywsapp/http.py", "from pywsapp.app import App"),
    (imports_up, "pywsapp/http.py", "import pywsapp"),
    (imports_up, "pywsapp/connection.py", "if TYPE_CHECKING:\n    from pywsapp import app"),
    (relative_imports, "pywsapp/http.py", "from . import exceptions"),
    (relative_imports, "pywsapp/http.py", "from .exceptions import X"),
    (impure_protocol, "pywsapp/_protocol/frames.py", "import socket"),
    (impure_protocol, "pywsapp/_protocol/frames.py", "from time import monotonic"),
    (impure_protocol, "pywsapp/_protocol/frames.py", "import asyncio.events"),
    (impure_protocol, "pywsapp/_lifecycle/lifecycle.py", "from wsproto.events import Ping"),
    (impure_protocol, "pywsapp/_server/transports/socket.py", "import h11"),
    (servers_with_components, "pywsapp/_server/server.py", "from pywsapp.routing.router import Router"),
    (foreign_imports, "pywsapp/app.py", "import uvloop"),
    (foreign_imports, "pywsapp/app.py", "from trio.socket import socket"),
    (foreign_imports, "pywsapp/app.py", "class C:\n    def f(self):\n        import redis"),
    (eager_libraries, "pywsapp/app.py", "from pywsapp.isal import compressor"),
    (late_imports, "pywsapp/app.py", "def f():\n    import json"),
    (
        late_imports,
        "pywsapp/app.py",
        "class C:\n    async def f(self):\n        if self:\n            from os import path",
    ),
    (import_cycle, "pywsapp/exceptions.py", "from pywsapp.app import App"),
    (import_cycle, "pywsapp/exceptions.py", "import pywsapp.exceptions"),
    (vague_names, "pywsapp/topics/utils.py", ""),
    (vague_names, "pywsapp/_helpers/text.py", ""),
    (too_long, "pywsapp/http.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
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
    assert import_cycle(written(tmp_path, {**GOOD, "pywsapp/exceptions.py": text})) == []


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
def test_exports_that_differ_from_all_are_found(code: str, tmp_path: Path) -> None:
    declared, bound = exported(written(tmp_path, {"pywsapp/__init__.py": code})["pywsapp"])
    assert declared != bound
