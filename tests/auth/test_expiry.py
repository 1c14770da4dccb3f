"""A user that expires: the connection is closed with 4401 at that time, unless the user was refreshed before."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serving import GUARD, frame
from support.tokens import ISSUER, claims, public, rsa_key, token
from support.wire import peer_of, running

from pywsapp import (
    App,
    CloseCode,
    Connection,
    InvalidCredentials,
    MessageComponent,
    Options,
    Request,
    connect,
)
from pywsapp.auth import Authenticated
from pywsapp.auth.expiry import Expiries
from pywsapp.auth.jwt import Jwks, JwtAuthenticator

QUICK = Options(message_timeout=0.08)  # the server looks at the time limits four times as often


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Closing:
    """Stands for a connection."""

    def __init__(self, number: int, expires_at: float | None) -> None:
        self.id = number
        self.request = Request(user="ana")
        self.user = "ana"
        self.closed: list[tuple[int, str]] = []
        self.expires_at = expires_at

    @property
    def expires_at(self) -> float | None:
        return self.request._state._pywsapp_access.expires_at  # type: ignore[union-attr]

    @expires_at.setter
    def expires_at(self, value: float | None) -> None:
        self.request._state._pywsapp_access.expires_at = value  # type: ignore[union-attr]

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


def test_connections_are_closed_when_their_time_has_come() -> None:
    clock = Clock()
    expiries = Expiries(clock)
    conns: list[Any] = [Closing(number, 1000.0 + number) for number in range(5)]
    for conn in reversed(conns):
        expiries.watch(conn)
    for number, conn in enumerate(conns):
        clock.now = 1000.0 + number
        assert conn.closed == []
        expiries.tick(0)
        assert conn.closed == [(4401, "the credentials have expired")]
    assert len(expiries) == 0
    expiries.tick(0)
    assert all(len(conn.closed) == 1 for conn in conns)


def test_a_connection_that_was_refreshed_or_has_ended_is_not_closed() -> None:
    clock = Clock()
    expiries = Expiries(clock)
    later, never, ended, sooner = conns = [Closing(number, 1010.0) for number in range(4)]
    all_conns: list[Any] = conns
    for conn in all_conns:
        expiries.watch(conn)
    later.expires_at, never.expires_at, sooner.expires_at = 1020.0, None, 1005.0
    for conn in all_conns[0], all_conns[1], all_conns[3]:
        expiries.watch(conn)
    expiries.discard(all_conns[2])
    closed = {}
    for now in range(1000, 1030):
        clock.now = float(now)
        expiries.tick(0)
        closed.update({conn: now for conn in conns if conn.closed and conn not in closed})
    assert closed == {later: 1020, sooner: 1005}
    assert ended.closed == never.closed == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3) | st.none()), max_size=60))
def test_expiries_against_a_simple_model(steps: list[tuple[int, int | None]]) -> None:
    clock = Clock()
    expiries = Expiries(clock)
    conns: dict[int, Any] = {number: Closing(number, None) for number in range(10)}
    model: dict[int, float] = {}
    for number, seconds in steps:
        conn = conns[number]
        conn.expires_at = None if seconds is None else clock.now + seconds
        if seconds is None and number % 2:
            expiries.discard(conn)
        else:
            expiries.watch(conn)
        model.pop(number, None)
        if seconds is not None:
            model[number] = clock.now + seconds
        clock.now += 0.5
        expiries.tick(0)
        due = {number for number, at in model.items() if at <= clock.now}
        assert {number for number, conn in conns.items() if conn.closed} == due
        for number in due:
            del model[number]
            conns[number].closed.clear()
        assert len(expiries) == len(model)


def test_a_large_number_is_closed_in_parts() -> None:
    expiries = Expiries(lambda: 2000.0)
    conns: list[Any] = [Closing(number, 1000.0) for number in range(450)]
    for conn in conns:
        expiries.watch(conn)
    counts = []
    for _ in range(3):
        expiries.tick(0)
        counts.append(sum(len(conn.closed) for conn in conns))
    assert counts == [200, 400, 450]


def test_outdated_entries_do_not_pile_up() -> None:
    expiries = Expiries(lambda: 0.0)
    for number in range(10_000):
        conn: Any = Closing(number, 1e9)
        expiries.watch(conn)
        expiries.discard(conn)
    lasting: Any = Closing(-1, 1e9)
    for number in range(10_000):
        lasting.expires_at = 1e9 + number
        expiries.watch(lasting)
    assert len(expiries) == 1
    assert len(expiries._heap) < 200


# -- on a server -----------------------------------------------------------------------------------------------------


class Refreshing(MessageComponent):
    """Takes new tokens as messages."""

    def __init__(self, by: Any = None) -> None:
        self.by = by
        self.ended: list[tuple[int | None, Any]] = []

    async def on_message(self, conn: Connection, message: Any) -> None:
        conn.refresh_user(await self.by.verify(message))
        conn.send(f"user {conn.user['name']}")

    def on_close(self, conn: Connection) -> None:
        self.ended.append((conn.close_code, conn.user))


def expires_in(seconds: float) -> Any:
    return lambda request: Authenticated("ana", time.time() + seconds)


def advance(app: App, seconds: float) -> None:
    """Have the server believe that time has passed, and look at it."""
    server = app._runner._server
    assert server is not None
    server.runtime.expiries._clock = lambda: time.time() + seconds
    server.runtime.expiries.tick(0)


@pytest.mark.anyio
async def test_a_connection_is_closed_with_4401() -> None:
    component = Refreshing()
    app = App("*", 0, options=QUICK, authenticate=expires_in(60))
    app.route("/x", component)
    async with running(app), peer_of(app) as peer:
        await peer.open("/x")
        advance(app, 60)
        assert await peer.receive_close() == (4401, "the credentials have expired")
    assert component.ended == [(CloseCode.UNAUTHENTICATED, "ana")]


@pytest.mark.anyio
async def test_a_user_that_has_expired_already_is_closed_at_once() -> None:
    app = App("*", 0, options=QUICK, authenticate=expires_in(-100))
    app.route("/x", MessageComponent())
    async with running(app), peer_of(app) as peer:
        await peer.open("/x")
        assert (await peer.receive_close())[0] == 4401


@pytest.mark.anyio
async def test_a_new_token_over_the_connection_replaces_the_user() -> None:
    jwks = Jwks(lambda: {"keys": [public(rsa_key())]})
    by = JwtAuthenticator({ISSUER: jwks}, audience="chat", leeway=0)

    def new(name: str, seconds: float, **changes: Any) -> str:
        return token(rsa_key(), body=claims(iat=None, exp=time.time() + seconds, name=name, **changes))

    component = Refreshing(by)
    app = App("*", 0, options=QUICK, authenticate=by)
    app.route("/x", component)
    async with running(app), peer_of(app) as peer:
        await peer.open("/x", authorization=f"Bearer {new('old', 60)}")
        await peer.send(frame(1, new("new", 100).encode()))
        assert await peer.frame() == (1, b"user new")
        advance(app, 60)
        await peer.send(frame(1, new("newer", 200).encode()))
        assert await peer.frame() == (1, b"user newer")
        advance(app, 200)
        assert (await peer.receive_close())[0] == 4401
    assert component.ended[0][1]["name"] == "newer"


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["another user", "expired", "nonsense"])
async def test_a_bad_token_over_the_connection_closes_it(what: str, caplog: pytest.LogCaptureFixture) -> None:
    jwks = Jwks(lambda: {"keys": [public(rsa_key())]})
    by = JwtAuthenticator({ISSUER: jwks}, audience="chat")
    good = claims(iat=None, exp=time.time() + 60)
    bad = {"another user": {**good, "sub": "bob"}, "expired": {**good, "exp": time.time() - 60}}
    sent = token(rsa_key(), body=bad[what]) if what in bad else "nonsense"
    app = App("*", 0, authenticate=by)
    app.route("/x", Refreshing(by))
    async with running(app), peer_of(app) as peer:
        await peer.open("/x", authorization=f"Bearer {token(rsa_key(), body=good)}")
        await peer.send(frame(1, sent.encode()))
        code, reason = await peer.receive_close()
    expected = {"another user": "those of another user", "expired": "has expired", "nonsense": "no signed JWT"}
    assert code == 4401
    assert expected[what] in reason
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@pytest.mark.anyio
async def test_ended_connections_are_forgotten() -> None:
    seen: list[weakref.ref[Connection]] = []

    class Watching(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            seen.append(weakref.ref(conn))
            conn.send("hello")

    app = App("*", 0, authenticate=expires_in(3600))
    app.route("/x", Watching())
    async with running(app):
        for _ in range(3):
            async with peer_of(app) as peer:
                await peer.open("/x")
                await peer.frame()
                await peer.send(frame(8, b"\x03\xe8"))
                await peer.read_to_end()
        server = app._runner._server
        assert server is not None
        with anyio.fail_after(GUARD):
            await server.runtime.wait_empty()
        assert len(server.runtime.expiries) == 0
        gc.collect()
        assert [ref() for ref in seen] == [None] * 3


@pytest.mark.anyio
async def test_refreshing_a_user_by_hand() -> None:
    done = anyio.Event()
    problems: list[BaseException] = []

    class Changing(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            assert conn.user == "ana"
            conn.refresh_user("bob")
            assert conn.user == "bob"
            for wrong in None, "":
                with pytest.raises(InvalidCredentials):
                    conn.refresh_user(wrong)
            with pytest.raises(TypeError):
                conn.refresh_user(True)
            conn.refresh_user(Authenticated("carol", subject="1"))
            with pytest.raises(InvalidCredentials, match="another user"):
                conn.refresh_user(Authenticated("dave", subject="2"))
            assert conn.user == "carol"
            conn.refresh_user(Authenticated("carol", time.time() + 100, subject="1"))

        def on_close(self, conn: Connection) -> None:
            conn.refresh_user(Authenticated("carol", time.time() + 100, subject="1"))
            done.set()

        def on_error(self, conn: Connection, exc: Exception) -> None:
            problems.append(exc)

    app = App("*", 0, authenticate=lambda request: "ana")
    app.route("/x", Changing())
    async with running(app), connect(f"ws://localhost:{app.port}/x") as conn:
        conn.refresh_user("me")  # a client can have a user too
        assert conn.user == "me"
        await conn.close()
        await done.wait()
    assert problems == []
