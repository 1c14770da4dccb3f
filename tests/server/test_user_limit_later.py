"""A user that a connection gets after its handshake counts against `max_connections_per_user`."""

from __future__ import annotations

from typing import Any

import pytest
from support.serving import Recorder, serving

from pywsapp import App, Connection, MessageComponent, Options, TooMany
from pywsapp.auth import public
from pywsapp.auth.first_message import FirstMessage

pytestmark = pytest.mark.anyio

QUICK = Options(close_timeout=0.1)  # for peers that do not answer a close frame


class Named(Recorder):
    """Takes each message for the name of the user, and sends the user."""

    def on_message(self, conn: Connection, message: Any) -> None:
        if message != "who":
            conn.refresh_user(message)
        conn.send(f"you are {conn.user}")


def user_or_nobody(request: Any) -> Any:
    return request.query_params.get("user") or public(request)


async def test_a_user_that_is_replaced_moves_between_the_counts() -> None:
    app = App("*", 0, options=QUICK, authenticate=user_or_nobody, max_connections_per_user=1)
    app.route("/", Named())
    async with serving(app) as server:
        admission = app._runner._server.admission  # type: ignore[union-attr]
        assert admission is not None
        async with server.client("/?user=ana") as first, server.client() as second:
            await second.send("ben", "ben", "cleo")
            for name in ("ben", "ben", "cleo"):
                assert await second.message() == f"you are {name}"
            assert [admission.counting.users.total(name) for name in ("ana", "ben", "cleo")] == [1, 0, 1]
            await first.send("ben")
            assert await first.message() == "you are ben"
            async with server.client("/?user=ana"):  # whose place is free
                pass
            async with server.client() as third:
                await third.send("ben", "who")
                assert await third.receive_close() == 1008
            assert app.stats().limits["max_connections_per_user"] == 1
        async with server.client("/?user=ben"):
            pass


async def test_the_oldest_connection_of_the_new_user_is_closed() -> None:
    app = App(
        "*", 0, options=QUICK, authenticate=user_or_nobody, max_connections_per_user=1, on_too_many=TooMany.CLOSE_OLDEST
    )
    app.route("/", Named())
    async with serving(app) as server, server.client() as first, server.client() as second:
        await first.send("ana")
        await first.message()
        await second.send("ana")
        assert await second.message() == "you are ana"
        assert await first.receive_close() == 1008
        await second.send("ben", "ana")
        assert [await second.message() for _ in range(2)] == ["you are ben", "you are ana"]


@pytest.mark.parametrize("policy", TooMany)
async def test_a_token_in_the_first_message_counts(policy: TooMany) -> None:
    recorder = Recorder()
    app = App("*", 0, options=QUICK, max_connections_per_user=1, on_too_many=policy)
    app.route("/", FirstMessage(recorder, lambda token: token))
    async with serving(app) as server, server.client() as first, server.client() as second, server.client() as third:
        await first.send("ana")
        await recorder.until_called("open")
        await third.send("ben")
        await recorder.until_called("open", 2)
        await second.send("ana", "hello")
        if policy is TooMany.REFUSE:
            assert await second.receive_close() == 1008
            assert recorder.names() == ["open", "open"], "the component knows nothing of it"
        else:
            assert await first.receive_close() == 1008
            await recorder.until_called("message")


class WithoutKey(MessageComponent):
    """Sets a user that no key names."""

    def on_message(self, conn: Connection, message: Any) -> None:
        conn.refresh_user(object())


async def test_a_user_without_a_key_is_an_error_of_the_program(caplog: pytest.LogCaptureFixture) -> None:
    app = App("*", 0, options=QUICK, max_connections_per_user=1)
    app.route("/", WithoutKey())
    async with serving(app) as server, server.client() as client:
        await client.send("x")
        assert await client.receive_close() == 1011
    assert any("has no key" in str(record.exc_info[1]) for record in caplog.records if record.exc_info)
