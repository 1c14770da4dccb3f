"""The fuzz targets pass on the corpus, on their seeds, on slightly changed seeds, and on any bytes.

`make fuzz` runs them for long.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).parent.parent.parent / "fuzz"
CORPUS = FUZZ / "corpus"
NAMES = sorted(path.stem for path in FUZZ.glob("fuzz_*.py"))
#: Targets of compiled modules; the others run on one build.
COMPILED = {"fuzz_deflate", "fuzz_frames"}
SECONDS = 0.3


@pytest.fixture(autouse=True)
def level_of_log() -> Iterator[None]:
    """Undo what a target sets when it is imported: its log would slow down a long run."""
    logger = logging.getLogger("pywsapp")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FUZZ))
    return importlib.import_module(request.param)


TARGETS = pytest.mark.parametrize(
    "target",
    [pytest.param(name, marks=() if name in COMPILED else pytest.mark.once) for name in NAMES],
    indirect=True,
)


def test_there_is_a_target_for_every_parser() -> None:
    parsers = [
        *("address_file", "bus_frames", "client_url", "codec", "cookies", "deflate", "envelope", "extensions"),
        *("flask_session", "forwarded", "frames", "jwt", "messages", "origin", "path_pattern", "php_session"),
        *("proxy_header", "request_head", "response_head", "session_cookie", "signed_url", "static_path"),
        *("tagged_json", "ticket", "topic_name", "topics_v1"),
    ]
    assert [f"fuzz_{parser}" for parser in parsers] == NAMES


@TARGETS
def test_the_corpus(target: ModuleType) -> None:
    inputs = importlib.import_module("harness").kept_inputs(target.__name__)
    assert len(inputs) >= 10
    for data in inputs:
        target.one_input(data)


def test_the_corpus_is_small_and_named_by_hash() -> None:
    paths = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in paths} == set(NAMES)
    assert sum(path.stat().st_size for path in paths) < 1_000_000
    for path in paths:
        assert path.name == hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@TARGETS
def test_the_seeds(target: ModuleType) -> None:
    seeds = target.seeds()
    assert len(set(seeds)) >= 10
    for seed in seeds:
        target.one_input(seed)
        target.one_input(seed[: len(seed) // 2])


@TARGETS
def test_changed_seeds(target: ModuleType) -> None:
    generator, seeds = random.Random(target.__name__), target.seeds()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(data))
            data[at : at + generator.randint(0, 2)] = generator.randbytes(generator.randint(0, 2))
            data = data or bytearray(1)
        target.one_input(bytes(data))


@TARGETS
def test_any_bytes(target: ModuleType) -> None:
    @given(st.binary(max_size=200))
    @settings(max_examples=50, deadline=None)
    def check(data: bytes) -> None:
        target.one_input(data)

    check()
