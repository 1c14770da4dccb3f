"""`pywsapp.logs.JsonFormatter`: one JSON object a line, whatever a record contains."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywsapp.logs import JsonFormatter

pytestmark = pytest.mark.once


def record_of(message: Any = "hello", *args: Any, exc_info: Any = None, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("pywsapp.test_logs")
    return logger.makeRecord(logger.name, logging.INFO, "file", 1, message, args, exc_info, extra=extra)


def line_of(record: logging.LogRecord, **arguments: Any) -> dict[str, Any]:
    text = JsonFormatter(**arguments).format(record)
    assert text.isascii()
    assert text.isprintable()
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_the_keys_of_a_line() -> None:
    record = record_of("%s is closed", "x", event="connection.closed", close_code=1000, duration_seconds=1.5)
    record.created = 1764532801.25
    assert list(line_of(record).items()) == [
        ("timestamp", "2025-11-30T20:00:01.250000Z"),
        ("level", "INFO"),
        ("logger", "pywsapp.test_logs"),
        ("event", "connection.closed"),
        ("message", "x is closed"),
        ("pid", record.process),
        ("close_code", 1000),
        ("duration_seconds", 1.5),
    ]


def test_a_line_of_a_program_has_no_event_and_its_own_fields() -> None:
    found = line_of(record_of(request_id="r1", level="mine", tags=["a", 1, None, True], place={"x": (1.5, {2})}))
    assert "event" not in found
    assert found["request_id"] == "r1"
    assert (found["level"], found["level_"]) == ("INFO", "mine")
    assert found["tags"] == ["a", 1, None, True]
    assert found["place"] == {"x": [1.5, [2]]}


def test_defaults_are_in_each_line() -> None:
    assert line_of(record_of(), defaults={"service": "chat", "level": "x"})["service"] == "chat"


def test_an_exception_is_text() -> None:
    try:
        raise ValueError("no\nway")
    except ValueError:
        record = record_of(exc_info=sys.exc_info())
    found = line_of(record)
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("ValueError: no\nway")


class Hostile:
    """Fails in each of its methods."""

    def __repr__(self) -> str:
        raise ValueError

    __str__ = __len__ = __iter__ = __int__ = __repr__


class HostileMapping(Mapping[str, int]):
    """Fails when its items are read."""

    def __getitem__(self, key: str) -> int:
        raise ValueError

    def __iter__(self) -> Iterator[str]:
        return iter(("a",))

    def __len__(self) -> int:
        return 1


class HostileError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError


class HostileText(str):
    """A text that is not what it contains."""

    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


def loop() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**64 - 1, 2**64 - 1),
        (10**5000, hex(10**5000)[:20]),
        (b"\xff\n", r"b'\xff\n'"),
        ("\ud800 \u2028\x7f", "\\ud800 \u2028\x7f"),
        (Hostile(), "<Hostile without repr>"),
        (HostileMapping(), "<HostileMapping without items>"),
        (HostileText("x"), "<HostileText without repr>"),
        (logging.INFO, 20),
        ({1: "x", Hostile(): 2}, {"1": "x", "<Hostile without repr>": 2}),
        (ValueError("x"), "ValueError('x')"),
    ],
    ids=["nan", "inf", "large", "huge", "bytes", "text", "repr", "items", "str", "int", "keys", "exception"],
)
def test_values_that_json_has_not(value: Any, expected: Any) -> None:
    found = line_of(record_of(field=value))["field"]
    assert found == expected or str(found).startswith(str(expected))


def test_sizes_are_bounded() -> None:
    nested: Any = "x"
    for _ in range(100):
        nested = [nested] * 3
    fields = {f"field{number}": "x" for number in range(1000)}
    found = line_of(
        record_of("x" * 1_000_000, text="y" * 100_000, numbers=list(range(10_000)), deep=nested, loop=loop(), **fields)
    )
    assert len(found["message"]) < 4_010
    assert len(found["text"]) < 2_010
    assert len(found["numbers"]) == 50
    assert len(found) < 70
    assert len(json.dumps(found["deep"])) < 1_000


def test_the_end_of_a_long_exception_stays() -> None:
    record = record_of()
    record.exc_text = "Traceback\n" + "line\n" * 10_000 + "ValueError: the cause"
    assert line_of(record)["exception"].endswith("ValueError: the cause")
    assert len(line_of(record)["exception"]) < 8_010


@pytest.mark.parametrize("arguments", [("%d", "x"), ("%s %s", "x"), ("%s", Hostile()), (Hostile(),)], ids=range(4))
def test_a_message_that_cannot_be_formatted(arguments: tuple[Any, ...]) -> None:
    assert line_of(record_of(*arguments))["message"]


def test_an_exception_without_text() -> None:
    error = HostileError()
    assert "HostileError" in line_of(record_of(exc_info=(HostileError, error, None)))["exception"]


def test_each_record_is_one_line_of_json() -> None:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)

    @settings(max_examples=30)
    @given(st.text(), st.dictionaries(st.text(), values))
    def check(message: str, fields: dict[str, Any]) -> None:
        record = record_of(message)
        for name, value in fields.items():
            record.__dict__.setdefault(name, value)
        assert line_of(record)["level"] == "INFO"

    check()


@pytest.mark.parametrize("key", ["()", "class"])
def test_a_configuration_can_name_the_formatter(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("test_logs_configured")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {key: "pywsapp.logs.JsonFormatter"}},
            "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}},
            "loggers": {logger.name: {"handlers": ["out"], "level": "INFO", "propagate": False}},
        }
    )
    logger.info("hello %s", "x", extra={"a": 1})
    logger.handlers.clear()
    found = json.loads(capsys.readouterr().out)
    assert (found["message"], found["a"]) == ("hello x", 1)
