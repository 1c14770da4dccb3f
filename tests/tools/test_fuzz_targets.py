"""The fuzz targets pass on their seeds, on slightly changed seeds, and on any bytes; `make fuzz` runs them for long."""

from __future__ import annotations

import importlib
import random
import time
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).parent.parent.parent / "fuzz"
NAMES = sorted(path.stem for path in FUZZ.glob("fuzz_*.py"))
SECONDS = 0.7


@pytest.fixture
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FUZZ))
    return importlib.import_module(request.param)


TARGETS = pytest.mark.parametrize("target", NAMES, indirect=True)


def test_there_is_a_target_for_every_parser() -> None:
    parsers = [
        "deflate",
        "envelope",
        "extensions",
        "frames",
        "jwt",
        "php_session",
        "proxy_header",
        "request_head",
        "response_head",
        "session_cookie",
        "signed_url",
    ]
    assert [f"fuzz_{parser}" for parser in parsers] == NAMES


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
    @settings(max_examples=100, deadline=None)
    def check(data: bytes) -> None:
        target.one_input(data)

    check()
