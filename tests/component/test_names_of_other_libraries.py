"""A connection that is used as in another library: the AttributeError says what to write here."""

from __future__ import annotations

from typing import Any

import pytest
from support.serving import Pipe

from pywsapp._lifecycle.mistakes import _OTHER_NAMES
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("send_text", "write conn.send(message) with a str or bytes"),
        ("send_json", "write conn.send(json.dumps(value))"),
        ("receive_text", "messages come to on_message"),
        ("accept", "on_open is called when the connection is open already"),
        ("closed", "write conn.is_open"),
        ("resourceId", "write conn.id"),
        ("query_params", "write conn.request.query_params"),
        ("headers", "write conn.request.headers"),
        ("nickname", "keep your own data in conn.state: conn.state.nickname"),
    ],
)
def test_what_to_write_instead(name: str, instead: str) -> None:
    seen: list[str] = []

    class Reading(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            getattr(conn, message)

        def on_error(self, conn: Connection, exc: Exception) -> None:
            seen.append(str(exc))

    Pipe(Reading()).send(name)
    assert [text.partition("; ")[2] for text in seen] == [instead]


def test_a_connection_has_none_of_these_names() -> None:
    assert [name for name in _OTHER_NAMES if hasattr(Connection, name)] == []
