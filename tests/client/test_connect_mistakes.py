"""`connect` without `async with`: each way to write it says what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pywsapp import ConfigurationError, connect

pytestmark = pytest.mark.anyio
URL = "ws://localhost:9/"
WRITE = "write `async with connect(url) as conn:`"


async def with_statement() -> None:
    with connect(URL):  # type: ignore[attr-defined]
        pass


async def for_statement() -> None:
    async for _ in connect(URL):  # type: ignore[attr-defined]
        pass


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (with_statement, f"connect() is asynchronous; {WRITE}"),
        (
            for_statement,
            f"connect() opens one connection and does not reconnect: {WRITE}, "
            "and inside it `async for message in conn:`; or write `async for conn in reconnecting(url):`",
        ),
    ],
)
async def test_another_statement(mistake: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        await mistake()
    assert str(raised.value) == message


@pytest.mark.parametrize("name", ["send", "receive", "close", "is_open"])
async def test_what_belongs_to_the_connection(name: str) -> None:
    context = connect(URL)
    with pytest.raises(AttributeError) as raised:
        getattr(context, name)
    assert str(raised.value) == f"connect() returns an object without {name!r}: {WRITE}, and inside it conn.{name}"
    with pytest.raises(AttributeError, match=r"^connect\(\) returns an object without 'recv'$"):
        context.recv  # type: ignore[attr-defined] # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subprotocols": "chat"}, "subprotocols is a list: write ['chat']"),
        ({"options": {}}, "options must be an Options, not {}"),
    ],
)
async def test_an_argument_of_another_type(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        connect(URL, **arguments)
    assert str(raised.value) == message
