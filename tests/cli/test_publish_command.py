"""`pywsapp publish`: mistakes in one line; `tests/brokers` publishes."""

from __future__ import annotations

import io
import sys

import pytest
from support.program import Program

from pywsapp.cli import main

pytestmark = pytest.mark.once


def test_a_broker_that_is_not_reachable_is_one_line_with_the_reason() -> None:
    with Program(["-m", "pywsapp", "publish", "redis://:secret@127.0.0.1:1", "news", "hello"]) as program:
        assert program.end() == 1
    assert program.output.startswith("pywsapp: redis://127.0.0.1:1 is not connected: ConnectionError: Error 111 ")
    assert program.output.count("\n") == 1


@pytest.mark.parametrize(
    ("message", "given", "what"),
    [
        ("\udcff", None, "the message is not text in UTF-8"),
        ("-", b"\xff", "the message is not text in UTF-8"),
        ("-", None, "the standard input is closed, and the message - stands for it"),
    ],
)
def test_a_message_that_cannot_be_read(
    message: str,
    given: bytes | None,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", None if given is None else io.TextIOWrapper(io.BytesIO(given), "utf-8"))
    with pytest.raises(SystemExit) as caught:
        main(["publish", "redis://127.0.0.1:1", "news", message])
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"pywsapp: {what}\n"
