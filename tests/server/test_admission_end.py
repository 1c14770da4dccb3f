"""Handshakes that a server refuses, and that each end of a connection makes room for another one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import CLOSE, GUARD, TEXT, frame
from support.wire import Peer, Site, get, handshake, peer_of, serving

from pywsapp import Accept, App, EchoServer, MessageComponent, Options, Refuse, Request, TooMany
from pywsapp._server.admission import Counting
from pywsapp._server.server import Server

pytestmark = pytest.mark.anyio


def user_of(request: Request) -> str | None:
    return request.headers.get("user")


def counting() -> Counting:
    return Counting(user_key=user_of)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(GUARD):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def refusal_of(server: Server | App, **fields: str) -> tuple[int, dict[str, str]]:
    async with peer_of(server) as peer:
        await peer.send(handshake(**fields))
        return await peer.head()


# -- refusing ----------------------------------------------------------------------------------------------------------


async def test_an_address_with_too_many_connections_gets_429(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    asked: list[Any] = []
    async with serving(Site(decide=asked.append), max_connections_per_address=2) as server:
        async with peer_of(server) as first, peer_of(server) as second:
            await first.open()
            await second.open()
            for _ in range(20):
                assert (await refusal_of(server))[0] == 429
        assert len(asked) == 2, "the component is not asked about the others"
        assert server.reports["max_connections_per_address"].count == 20
        await until(lambda: not server.admission)
        async with peer_of(server) as third:
            await third.open()
    lines = [message for message in caplog.messages if "429" in message or "max_connections" in message]
    assert lines == ["refused a handshake above max_connections_per_address: 127.0.0.1"]


async def test_too_many_decisions_at_the_same_time_do_not_exceed_the_limit() -> None:
    """They count while the component decides, so it is asked no more often than connections are allowed."""
    gate = anyio.Event()
    asked: list[Any] = []

    async def decide(request: Any) -> None:
        asked.append(request)
        await gate.wait()

    async with serving(Site(decide=decide), max_connections_per_address=2) as server:
        first = [peer_of(server) for _ in range(2)]
        for peer in first:
            await peer.send(handshake())
        await until(lambda: len(asked) == 2)
        for _ in range(4):
            async with peer_of(server) as peer:
                await peer.send(handshake())
                assert (await peer.head())[0] == 429
        assert len(asked) == 2
        first[0].disconnect()  # which makes room, although the decision has not come
        await until(lambda: len(server.admission or ()) == 1)
        async with peer_of(server) as peer:
            await peer.send(handshake())
            await until(lambda: len(asked) == 3)
            gate.set()
            assert [(await one.head())[0] for one in (first[1], peer)] == [101, 101]
        first[1].disconnect()
        await until(lambda: not server.admission)


async def test_a_handshake_that_is_refused_makes_room() -> None:
    async def forbid(request: Any) -> None:
        await anyio.lowlevel.checkpoint()
        raise Refuse(403)

    async with serving(Site(decide=forbid), max_connections_per_address=1, max_handshakes_per_second=2) as server:
        for expected in (403, 403, 503):
            async with peer_of(server) as peer:
                await peer.send(handshake())
                assert (await peer.head())[0] == expected
                assert not server.admission, "before its connection has ended"


async def test_handshakes_above_the_rate_get_503_with_a_random_retry_after(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Site(), max_handshakes_per_second=0.01) as server, peer_of(server) as peer:
        await peer.open()
        answers = [await refusal_of(server) for _ in range(20)]
        assert {status for status, _ in answers} == {503}
        waits = [int(fields["retry-after"]) for _, fields in answers]
        assert all(1 <= wait <= 60 for wait in waits)
        assert len(set(waits)) > 1
        assert server.reports["max_handshakes_per_second"].count == 20
        await peer.send(frame(TEXT, b"hello"))
        assert await peer.frame() == (TEXT, b"hello")
    assert [message for message in caplog.messages if "max_handshakes" in message] == [
        "refused a handshake above max_handshakes_per_second of the App: 127.0.0.1"
    ]


async def test_plain_requests_are_no_handshakes() -> None:
    limits: dict[str, Any] = {"max_handshakes_per_second": 0.01, "max_connections_per_address": 1}
    async with serving(Site(), **limits) as server, peer_of(server) as first:
        await first.open()
        for _ in range(3):
            async with peer_of(server) as peer:
                await peer.send(get())
                assert (await peer.head())[0] == 200


async def test_max_connections_has_a_report(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    async with serving(Site(), max_connections=1) as server, peer_of(server) as first:
        await first.open()
        for _ in range(10):
            assert (await refusal_of(server))[0] == 503
        assert server.reports["max_connections"].count == 10
    assert caplog.text.count("max_connections") == 1
    assert "503" not in caplog.text


# -- users -------------------------------------------------------------------------------------------------------------


async def test_a_user_with_too_many_connections_gets_429() -> None:
    async with serving(Site(), max_connections_per_user=1, counting=counting()) as server, peer_of(server) as first:
        await first.open(user="ana")
        assert (await refusal_of(server, user="ana"))[0] == 429
        async with peer_of(server) as other:
            await other.open(user="ben")
        await first.send(frame(CLOSE))
        await first.read_to_end()
        await until(lambda: not server.admission)
        async with peer_of(server) as again:
            await again.open(user="ana")


async def test_the_oldest_connection_of_a_user_is_closed_with_1008() -> None:
    limits: dict[str, Any] = {"max_connections_per_user": 1, "on_too_many": TooMany.CLOSE_OLDEST}
    async with serving(Site(), **limits, counting=counting()) as server:
        async with peer_of(server) as first, peer_of(server) as second:
            await first.open(user="ana")
            await second.open(user="ana")
            assert await first.receive_close() == (1008, "too many connections of this user")
            await second.send(frame(TEXT, b"hello"))
            assert await second.frame() == (TEXT, b"hello")
        assert server.reports["max_connections_per_user"].count == 1
        await until(lambda: not server.admission)


# -- proxies -----------------------------------------------------------------------------------------------------------


async def test_the_clients_of_a_trusted_proxy_count_and_not_the_proxy() -> None:
    app = App("*", 0, trusted_proxies=["127.0.0.1"], max_connections_per_address=1)
    app.route("/", EchoServer())
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        peers = []
        fields: tuple[dict[str, Any], ...] = (
            {},
            {},
            {"x_forwarded_for": "192.0.2.1"},
            {"x_forwarded_for": "192.0.2.2"},
        )
        for forwarded in fields:
            peers.append(peer_of(app))
            await peers[-1].open(**forwarded)
        assert (await refusal_of(app, x_forwarded_for="192.0.2.1"))[0] == 429
        for peer in peers:
            peer.disconnect()
        app.stop()


# -- every end ---------------------------------------------------------------------------------------------------------


class Ending(MessageComponent):
    """A component whose connections end as a message says."""

    def __init__(self) -> None:
        self.gate = anyio.Event()

    def on_handshake(self, request: Request) -> Accept | None:
        return Accept(headers=(("bad name", ""),)) if request.path == "/bad" else None

    def on_open(self, conn: Any) -> None:
        if conn.request.path == "/fail":
            raise ValueError

    async def on_message(self, conn: Any, message: Any) -> None:
        if message == "close":
            conn.close()
        elif message == "abort":
            conn.abort()
        elif message == "fail":
            raise ValueError
        elif message == "wait":
            await self.gate.wait()
        else:
            await anyio.sleep_forever()


async def lost(peer: Peer) -> None:
    peer.disconnect()


async def reset(peer: Peer) -> None:
    peer.reset()


async def closed(peer: Peer) -> None:
    await peer.send(frame(CLOSE))
    await peer.read_to_end()


async def malformed(peer: Peer) -> None:
    await peer.send(b"\xff\xff")
    await peer.frame()
    peer.disconnect()


def told(text: bytes, *, is_closed: bool = False) -> Callable[[Peer], Any]:
    async def end(peer: Peer) -> None:
        await peer.send(frame(TEXT, text))
        if is_closed:
            await peer.receive_close()
        else:
            with pytest.raises((ConnectionResetError, EOFError)):
                await peer.frame()

    return end


async def silent(peer: Peer) -> None:
    """Answer no ping."""
    await until_end(peer)


async def until_end(peer: Peer) -> None:
    try:
        await peer.read_to_end()
    except ConnectionResetError:
        peer.disconnect()


async def lost_while_a_handler_runs(peer: Peer) -> None:
    await peer.send(frame(TEXT, b"wait"))
    peer.disconnect()


ENDS = {
    "lost": lost,
    "reset": reset,
    "closed": closed,
    "malformed": malformed,
    "close": told(b"close", is_closed=True),
    "abort": told(b"abort"),
    "fail": told(b"fail", is_closed=True),
    "silent": silent,
    "busy": lost_while_a_handler_runs,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
async def test_each_end_makes_room(end: Callable[[Peer], Any]) -> None:
    component = Ending()
    options = Options(ping_interval=0.1, ping_timeout=0.5) if end is silent else Options()
    limits: dict[str, Any] = {"max_connections_per_address": 1, "max_connections_per_user": 1}
    async with serving(component, options, **limits, counting=counting()) as server:
        for _ in range(2):
            async with peer_of(server) as peer:
                await peer.open(user="ana")
                assert (await refusal_of(server, user="ana"))[0] == 429
                await end(peer)
            await until(lambda: not server.admission)
        assert server.admission is not None
        assert (len(server.admission.counting.addresses), len(server.admission.counting.users)) == (0, 0)
        if end is lost_while_a_handler_runs:
            assert server.runtime.connections, "its handler still runs"
        component.gate.set()


@pytest.mark.parametrize(("path", "status"), [("/bad", 500), ("/fail", 101)])
async def test_a_handshake_that_fails_makes_room(path: str, status: int) -> None:
    options = Options(close_timeout=0.05)  # the peer does not answer the close frame
    async with serving(Ending(), options, max_connections_per_address=1) as server:
        for _ in range(2):
            async with peer_of(server) as peer:
                await peer.send(handshake(path))
                assert (await peer.head())[0] == status
                await until_end(peer)
            await until(lambda: not server.admission)


async def test_a_component_that_cannot_be_used_makes_room() -> None:
    class Broken(MessageComponent):
        def __getattribute__(self, name: str) -> Any:
            if name == "on_message":
                raise AttributeError("a mistake of the component")
            return super().__getattribute__(name)

    async with serving(Broken(), max_connections_per_address=1) as server:
        for _ in range(2):
            assert (await refusal_of(server))[0] == 500
            assert not server.admission


async def test_a_drain_makes_room() -> None:
    async with serving(Site(), max_connections_per_address=5) as server:
        peers = [peer_of(server) for _ in range(5)]
        for peer in peers:
            await peer.open()
        server.stop()
        for peer in peers:
            assert (await peer.receive_close())[0] == 1012
            peer.disconnect()
        await until(lambda: not server.admission)


async def test_a_cancelled_server_counts_nothing_afterwards() -> None:
    component = Ending()
    app = App("*", 0, max_connections_per_address=5, options=Options(on_close_timeout=0.5))
    app.route("/", component)
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        server: Any = app._runner._server
        peers = [peer_of(app) for _ in range(4)]
        for peer in peers:
            await peer.open()
        await peers[0].send(frame(TEXT, b"sleep"))
        assert len(server.admission) == 4
        tasks.cancel_scope.cancel()
    assert len(server.admission) == 0
    for peer in peers:
        peer.disconnect()
