"""The compiled build and the pure Python build: same names, same bytes, and PYWSAPP_PURE selects one."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import hatch_build
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pywsapp
from pywsapp._compiled import compiled, describe
from pywsapp._protocol import frames
from pywsapp._protocol.prepared import PreparedMessage

NAMES = sorted(name.replace("/", ".") for name in hatch_build.modules())
BUILT = bool(hatch_build.extensions_in_place())

#: Tests that compare the two builds.
both = pytest.mark.skipif(not BUILT, reason="there are no extension modules: python hatch_build.py")
compiled_build = pytest.mark.skipif(
    "pywsapp._protocol.frames" not in compiled(), reason="this is the pure Python build"
)


def load_source(module: ModuleType) -> Any:
    """Load the Python source of a module under another name."""
    assert module.__file__ is not None
    path = Path(module.__file__).with_name(module.__name__.rpartition(".")[2] + ".py")
    loader = SourceFileLoader(f"{module.__name__}_source", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    source = importlib.util.module_from_spec(spec)
    loader.exec_module(source)
    return source


#: The extension module, untyped: tests call it with arguments of wrong types.
extension: Any = frames
source: Any = load_source(frames)

DATA = st.binary(max_size=1100)
MASKS = st.binary(min_size=4, max_size=4)
WINDOWS = st.tuples(DATA, st.integers(0, 1100), st.integers(0, 1100)).map(
    lambda given: (bytes(4) + given[0], *sorted(4 + min(at, len(given[0])) for at in given[1:]))
)
ANY_INT = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-20, 20)


# -- which build -------------------------------------------------------------------------------------------------------

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import pywsapp
from pywsapp._compiled import compiled, describe
for found in pkgutil.walk_packages(pywsapp.__path__, "pywsapp."):
    if not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as exc:  # an optional dependency
            assert not exc.name.startswith("pywsapp")
files = {name: module.__file__ for name, module in sys.modules.items() if name.startswith("pywsapp.")}
print(json.dumps([files, compiled(), describe()]))
"""


def python(code: str, *, pure: bool) -> Any:
    """Run code on one of the builds; return the JSON that it prints."""
    variables = {name: value for name, value in os.environ.items() if name != "PYWSAPP_PURE"}
    variables |= {"PYTHONPATH": str(hatch_build.SOURCE)} | ({"PYWSAPP_PURE": "1"} if pure else {})
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_pywsapp_pure_excludes_extension_modules() -> None:
    files, names, build = python(IMPORT_ALL, pure=True)
    assert {Path(file).suffix for file in files.values()} == {".py"}
    assert names == []
    assert build == "pure Python build"
    assert set(NAMES) <= set(files)


@both
def test_every_module_with_declarations_is_imported_compiled() -> None:
    files, names, build = python(IMPORT_ALL, pure=False)
    assert names == NAMES
    assert build == "compiled build"
    assert sorted(name for name, file in files.items() if Path(file).suffix != ".py") == NAMES


def test_compiled_lists_what_was_imported_here() -> None:
    assert pywsapp.__all__  # the first use of a public name imports all of them
    assert compiled() in ([], NAMES)
    assert describe() == ("compiled build" if compiled() else "pure Python build")
    assert bool(compiled()) == (BUILT and not os.environ.get("PYWSAPP_PURE"))


# -- the start-up line -------------------------------------------------------------------------------------------------

HINT = """
import json, os
import pywsapp
from pywsapp._compiled import build_hint
print(json.dumps(build_hint()))
"""
#: The same without PYWSAPP_PURE, as where no extension module was ever built.
HINT_WITHOUT_EXTENSIONS = HINT.replace("print", "os.environ.pop('PYWSAPP_PURE')\nprint")


def test_the_hint_says_how_to_get_the_compiled_build() -> None:
    assert python(HINT_WITHOUT_EXTENSIONS, pure=True) == (
        "pure Python build; with a C compiler, `pip install --force-reinstall --no-deps --no-cache-dir --no-binary "
        "pywsapp pywsapp` makes it 4 times as fast"
    )


def test_there_is_no_hint_when_pywsapp_pure_excludes_the_extension_modules() -> None:
    assert python(HINT, pure=True) == ""


@both
def test_the_compiled_build_has_no_hint() -> None:
    assert python(HINT, pure=False) == ""


# -- the same interface ------------------------------------------------------------------------------------------------

DESCRIBE = f"""
import importlib, inspect, json

def docstring(value):
    return inspect.cleandoc(value.__doc__ or "")

def parameters(value):
    return [(p.name, str(p.kind), p.default is not p.empty) for p in inspect.signature(value).parameters.values()]

def members(cls):
    for name in dir(cls):
        if not name.startswith("_"):
            value = inspect.getattr_static(cls, name)
            yield name, parameters(value) if inspect.isroutine(value) else None

def public(module):
    for name, value in vars(module).items():
        if name.startswith("_") or name == "annotations" or inspect.ismodule(value):
            continue
        if (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__ != module.__name__:
            continue
        if inspect.isclass(value):
            yield name, {{"": docstring(value), **dict(members(value))}}
        else:
            yield name, [docstring(value), parameters(value)] if inspect.isroutine(value) else None

print(json.dumps({{name: dict(public(importlib.import_module(name))) for name in {NAMES!r}}}, sort_keys=True))
"""


@both
def test_both_builds_have_the_same_names_parameters_and_docstrings() -> None:
    pure, extensions = python(DESCRIBE, pure=True), python(DESCRIBE, pure=False)
    assert "send" in pure["pywsapp.connection"]["Connection"]
    for name in NAMES:
        assert comparable(name, extensions[name]) == comparable(name, pure[name])


def comparable(name: str, module: dict[str, Any]) -> dict[str, Any]:
    """Remove what can differ in a .pyx: docstrings of classes, and functions that are aliases in the source."""
    path = hatch_build.modules()[name.replace(".", "/")]
    if path.suffix != ".pyx":
        return module
    source = path.with_suffix(".py").read_text()
    return {
        key: {**value, "": None} if isinstance(value, dict) else value
        for key, value in module.items()
        if not (isinstance(value, list) and f"\n{key} = " in source)
    }


def nested_comprehensions(text: str) -> Iterator[int]:
    """Yield the lines of nested comprehensions that run when the module is imported."""
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

    def visit(node: ast.AST, inside: bool) -> Iterator[int]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, kinds) and inside:
            yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside or isinstance(node, kinds))

    return visit(ast.parse(text), inside=False)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_modules_have_no_nested_comprehension(name: str) -> None:
    """Cython up to 3.3 then drops one reference to None too many on Python 3.10 and 3.11, which aborts at exit."""
    path = hatch_build.modules()[name.replace(".", "/")]
    if path.suffix == ".py":
        assert list(nested_comprehensions(path.read_text())) == []
    else:
        assert [line for line in path.read_text().splitlines() if line[:1].isalpha() and line.count(" for ") > 1] == []


def test_a_nested_comprehension_is_seen() -> None:
    assert list(nested_comprehensions("x = 1\ny = [[a for a in b] for b in c]\n")) == [2]
    assert list(nested_comprehensions("class C:\n    y = tuple(bytes(a for a in b) for b in c)\n")) == [2]
    assert list(nested_comprehensions("def f():\n    return [[a for a in b] for b in c]\n")) == []
    assert list(nested_comprehensions("y = [a for a in b]\n")) == []


# -- the same bytes ----------------------------------------------------------------------------------------------------


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (UnicodeDecodeError, UnicodeEncodeError) as exc:
        return type(exc), exc.start, exc.end, exc.reason


@compiled_build
@given(DATA, MASKS, st.integers(0, 1 << 40))
def test_masking(data: bytes, mask: bytes, count: int) -> None:
    assert extension.apply_mask(data, mask) == source.apply_mask(data, mask)
    assert extension.rotate_mask(mask, count) == source.rotate_mask(mask, count)


@compiled_build
@given(WINDOWS, st.integers(0, 20))
def test_unmasking(window: tuple[bytes, int, int], shift: int) -> None:
    data, start, stop = window
    assert extension.unmask(data, start, stop) == source.unmask(data, start, stop)
    assert outcome(extension.unmask_text, data, start, stop) == outcome(source.unmask_text, data, start, stop)


@compiled_build
@given(st.text(max_size=300), MASKS, st.integers(0, 3))
def test_unmasking_text(text: str, mask: bytes, cut: int) -> None:
    payload = text.encode()[: len(text.encode()) - cut]
    data = mask + source.apply_mask(payload, mask)
    assert outcome(extension.unmask_text, data, 4, len(data)) == outcome(source.unmask_text, data, 4, len(data))


@compiled_build
@given(st.binary(max_size=3), st.sampled_from([126, 127, 254, 255]), st.binary(min_size=8, max_size=12))
def test_long_sizes(before: bytes, second: int, behind: bytes) -> None:
    for length in (behind, bytes(6) + behind, bytes(4) + behind):
        data = before + bytes((0x81, second)) + length
        assert extension.long_size(data, len(before)) == source.long_size(data, len(before))
    assert extension.WRONG_SIZE == source.WRONG_SIZE


@compiled_build
@given(st.sampled_from([0x81, 0x82]), st.text(max_size=200), st.sampled_from(["", "x" * 126, "é" * 40_000, "\ud800"]))
def test_writing_text(first: int, text: str, more: str) -> None:
    assert outcome(extension.encode_text_frame, first, text + more) == outcome(
        source.encode_text_frame, first, text + more
    )


@compiled_build
@given(st.integers(0, 255), st.binary(max_size=200), st.sampled_from([0, 125, 126, 65535, 65536, 70_000]))
def test_writing_bytes(first: int, data: bytes, more: int) -> None:
    payload = data + bytes(more)
    assert extension.encode_frame(first, payload) == source.encode_frame(first, payload)
    assert extension.frame_head(first, len(payload)) == source.frame_head(first, len(payload))
    frame = extension.encode_masked_frame(first, payload)
    start = len(frame) - len(payload)
    assert frame[:start][:-4] == source.encode_masked_frame(first, payload)[:start][:-4]
    assert source.unmask(frame, start, len(frame)) == payload


@compiled_build
@given(st.integers(0, 20_000), st.lists(st.tuples(WINDOWS, MASKS | st.just(b"")), max_size=12), st.integers(0, 300))
def test_payload_buffer(expected: int, parts: list[tuple[tuple[bytes, int, int], bytes]], start: int) -> None:
    ours, theirs, size = extension.PayloadBuffer(expected), source.PayloadBuffer(expected), 0
    for (data, begin, end), mask in parts:
        for buffer in (ours, theirs):
            buffer.add(data, begin, end, mask)
        size += end - begin
        assert ours.since(min(start, size)) == theirs.since(min(start, size))
    assert ours.payload() == theirs.payload()


# -- invalid arguments -------------------------------------------------------------------------------------------------


def filled_buffer() -> Any:
    buffer = extension.PayloadBuffer(10)
    buffer.add(b"1234567890", 0, 10, b"")
    return buffer


def emptied_buffer() -> Any:
    buffer = filled_buffer()
    assert buffer.payload() == b"1234567890"
    return buffer


WRONG: dict[str, tuple[type[Exception], Callable[[], Any]]] = {
    "a mask that is too short": (ValueError, lambda: extension.apply_mask(b"data", b"123")),
    "a mask that is too long": (ValueError, lambda: extension.apply_mask(b"data", b"12345")),
    "no mask": (TypeError, lambda: extension.apply_mask(b"data", None)),
    "no data": (TypeError, lambda: extension.apply_mask(None, b"1234")),
    "another type": (TypeError, lambda: extension.apply_mask(bytearray(9), b"1234")),
    "a start within the mask": (ValueError, lambda: extension.unmask(bytes(9), 3, 9)),
    "a negative start": (ValueError, lambda: extension.unmask(bytes(9), -4, 9)),
    "a stop before the start": (ValueError, lambda: extension.unmask(bytes(9), 8, 7)),
    "a stop behind the data": (ValueError, lambda: extension.unmask_text(bytes(9), 4, 10)),
    "a number that is no offset": (OverflowError, lambda: extension.unmask(bytes(9), 4, 1 << 64)),
    "nothing to unmask": (TypeError, lambda: extension.unmask_text(None, 4, 4)),
    "a missing length": (IndexError, lambda: extension.long_size(b"\x81\x7f\x00", 0)),
    "a length at the end": (IndexError, lambda: extension.long_size(b"\x81\x7e\x00\x80", 3)),
    "no data with a length": (TypeError, lambda: extension.long_size(None, 0)),
    "no payload": (TypeError, lambda: extension.encode_frame(0x81, None)),
    "no payload to mask": (TypeError, lambda: extension.encode_masked_frame(0x81, None)),
    "no text": (TypeError, lambda: extension.encode_text_frame(0x81, None)),
    "bytes for text": (TypeError, lambda: extension.encode_text_frame(0x81, b"text")),
    "half a code point": (UnicodeEncodeError, lambda: extension.encode_text_frame(0x81, "\ud800")),
    "a part behind the data": (ValueError, lambda: filled_buffer().add(b"data", 2, 5, b"")),
    "a part with a wrong mask": (ValueError, lambda: filled_buffer().add(b"data", 0, 4, b"12345")),
    "a part that is None": (TypeError, lambda: filled_buffer().add(None, 0, 4, b"")),
    "an offset behind the contents": (ValueError, lambda: filled_buffer().since(11)),
    "a negative offset": (ValueError, lambda: filled_buffer().since(-1)),
    "data after payload()": (MemoryError, lambda: emptied_buffer().add(b"data", 0, 4, b"")),
    "a payload of a negative size": (ValueError, lambda: extension.PayloadBuffer(-1)),
    "payload() twice": (MemoryError, lambda: emptied_buffer().payload()),
    "a buffer without __init__": (
        MemoryError,
        lambda: extension.PayloadBuffer.__new__(extension.PayloadBuffer).payload(),
    ),
}


@compiled_build
@pytest.mark.parametrize("what", WRONG)
def test_invalid_arguments_raise(what: str) -> None:
    error, call = WRONG[what]
    with pytest.raises(error):
        call()


@compiled_build
def test_a_buffer_that_is_initialised_again_is_empty() -> None:
    buffer = extension.PayloadBuffer(5000)
    buffer.add(bytes(5000), 0, 5000, b"")
    buffer.__init__(10)
    assert buffer.since(0) == b""
    buffer.add(b"again", 0, 5, b"")
    assert buffer.payload() == b"again"


@compiled_build
@pytest.mark.parametrize("empty", [None, "text"], ids=["none", "text"])
def test_a_prepared_message_without_payload_raises(empty: Any) -> None:
    message: Any = PreparedMessage.__new__(PreparedMessage)
    with pytest.raises(TypeError):
        message.plain_frame()
    if empty is not None:
        with pytest.raises(TypeError):
            message.payload = empty
        return
    message.payload = empty
    with pytest.raises(TypeError):
        message.plain_frame()


@compiled_build
@pytest.mark.parametrize("kind", ["Connection", "Lifecycle", "Outbox", "PreparedMessage", "WebSocket"])
def test_objects_have_no_methods_that_set_their_attributes_from_a_pickle(kind: str) -> None:
    [cls] = [getattr(module, kind) for name in NAMES if hasattr(module := importlib.import_module(name), kind)][:1]
    assert not {"__setstate_cython__", "__reduce_cython__", "__setstate__"} & set(dir(cls))


@compiled_build
@given(st.binary(max_size=30), ANY_INT, ANY_INT)
def test_no_range_reads_outside_of_the_data(data: bytes, start: int, stop: int) -> None:
    if 4 <= start <= stop <= len(data):
        assert extension.unmask(data, start, stop) == source.unmask(data, start, stop)
        return
    for function in (extension.unmask, extension.unmask_text):
        with pytest.raises(ValueError, match="must follow its masking key"):
            function(data, start, stop)
    if not 0 <= start <= stop <= len(data):
        with pytest.raises(ValueError, match="a part must lie within"):
            filled_buffer().add(data, start, stop, b"")
    if not 0 <= start <= 10:
        with pytest.raises(ValueError, match="the offset must lie within"):
            filled_buffer().since(start)
    if not -len(data) - 1 <= start < len(data):
        with pytest.raises(IndexError):
            extension.long_size(data, start)


# -- objects that were never initialised -------------------------------------------------------------------------------

USE_UNINITIALISED = """
import faulthandler, gc, importlib, itertools, logging, sys, warnings

faulthandler.enable()
logging.disable()
warnings.simplefilter("ignore")
VALUES = (None, b"x", "x", 1, 1.5, [b"x"])
ARGUMENTS = [args for size in range(4) for args in itertools.product(VALUES, repeat=size)]
found = []
for name in {names}:
    for cls in list(vars(importlib.import_module(name)).values()):
        if not isinstance(cls, type) or cls.__module__ != name:
            continue
        for attribute in dir(cls):
            if attribute in ("__class__", "__init__", "__init_subclass__", "__new__", "__subclasshook__"):
                continue
            for args in ARGUMENTS:
                try:
                    value = getattr(cls.__new__(cls), attribute)
                    if callable(value):
                        value(*args)
                except BaseException:
                    pass
        found.append(cls.__name__)
gc.collect()
print(json.dumps(found))
"""


@both
def test_objects_that_were_not_initialised_do_not_crash_the_process() -> None:
    found = python("import json" + USE_UNINITIALISED.format(names=NAMES), pure=False)
    assert {"Lifecycle", "StateMachine", "Outbox", "Connection", "WebSocket", "EagerTask"} <= set(found)
