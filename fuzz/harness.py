"""What all fuzz targets share: instrumentation by atheris where it is installed, seeds, bounds, cutting a stream."""

from __future__ import annotations

import contextlib
import importlib
import shlex
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager
from hashlib import sha1
from pathlib import Path
from typing import Any, TypeVar

try:
    atheris: Any = importlib.import_module("atheris")
except ModuleNotFoundError:  # the smoke test needs no atheris, and atheris has no wheels for some platforms
    atheris = None

T = TypeVar("T")

CORPUS = Path(__file__).parent / "corpus"
#: Bytes of one input.
MAX_SIZE = 4096
#: Seconds after which an input is reported as an endless loop.
TIMEOUT = 20


def instrumented() -> AbstractContextManager[None]:
    """Return a context in which atheris instruments the branches of the modules that are imported."""
    if atheris is None:
        return contextlib.nullcontext()
    context: AbstractContextManager[None] = atheris.instrument_imports(include=["pywsapp", "wsproto"])
    return context


def fuzz(one_input: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Run a target until it fails or its time ends; the first directory among the arguments gets seeds and new inputs.

    The arguments are those of libFuzzer. `-merge=1` adds to a directory the inputs of others that reach more of the
    code, and no seeds.
    """
    directories = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if not any(argument.startswith("-merge") for argument in sys.argv):
        for seed in seeds:
            for directory in directories[:1]:
                (directory / input_name(seed)).write_bytes(seed)
    # libFuzzer runs argv[0] in a shell for each part of a merge
    command = shlex.join([sys.executable, *sys.argv[:1]])
    atheris.Setup([command, f"-max_len={MAX_SIZE}", f"-timeout={TIMEOUT}", *sys.argv[1:]], one_input)
    atheris.Fuzz()


def input_name(data: bytes) -> str:
    """Return the name of the file with an input, as libFuzzer names it."""
    return sha1(data, usedforsecurity=False).hexdigest()


def kept_inputs(target: str) -> list[bytes]:
    """Return the inputs of a target that are kept in the repository, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*")) if path.is_file()]


def check_text(error: Exception, size: int) -> None:
    """Check that the text of an error is short, because it is logged, or sent to a client."""
    assert len(str(error)) < size, str(error)[:200]


def check_status(refuse: Any, *statuses: int) -> None:
    """Check the status with which a request is refused."""
    assert refuse.status in statuses, refuse.status


def pieces(data: bytes, cuts: bytes) -> Iterator[bytes]:
    """Cut a stream into pieces whose sizes are the bytes of `cuts`, in a cycle."""
    sizes = [size for size in cuts if size] or [len(data) or 1]
    position = number = 0
    while position < len(data):
        size = sizes[number % len(sizes)]
        yield data[position : position + size]
        position += size
        number += 1


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the coroutine waited")
