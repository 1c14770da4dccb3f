"""What all fuzz targets share: instrumentation by atheris where it is installed, seeds, and cutting a stream."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from hashlib import sha1
from pathlib import Path
from typing import Any

try:
    atheris: Any = importlib.import_module("atheris")
except ModuleNotFoundError:  # the smoke test needs no atheris, and atheris has no wheels for some platforms
    atheris = None


def instrumented() -> AbstractContextManager[None]:
    """Return a context in which atheris instruments the branches of the modules that are imported."""
    if atheris is None:
        return contextlib.nullcontext()
    context: AbstractContextManager[None] = atheris.instrument_imports(include=["pywsapp", "wsproto"])
    return context


def fuzz(one_input: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Run a target until it fails or its time ends; the last argument of the program is the corpus directory."""
    corpus = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    for seed in seeds:
        for directory in corpus[:1]:
            (directory / f"seed-{sha1(seed, usedforsecurity=False).hexdigest()[:12]}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


def pieces(data: bytes, cuts: bytes) -> Iterator[bytes]:
    """Cut a stream into pieces whose sizes are the bytes of `cuts`, in a cycle."""
    sizes = [size for size in cuts if size] or [len(data) or 1]
    position = number = 0
    while position < len(data):
        size = sizes[number % len(sizes)]
        yield data[position : position + size]
        position += size
        number += 1
