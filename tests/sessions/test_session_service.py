"""What all stores have in common: time limits, failures and their log lines, races, and secrets."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from support.sessions import cookie_of, counting, fetched, opened, told
from support.wire import Site, handshake, peer_of, running, secured

from pywsapp import (
    App,
    Connection,
    MessageComponent,
    Request,
    Response,
    SessionEnded,
    SessionError,
    SessionMiddleware,
    SessionUnavailable,
)
from pywsapp.sessions import MemorySessionStore, SessionCookie, Stored, outage, service
from pywsapp.sessions.outage import OutageLog
from pywsapp.sessions.service import SessionService

pytestmark = pytest.mark.anyio


class Failing(MemorySessionStore):
    """A store that fails, or hangs, when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: set[str] = set()
        self.hangs: set[str] = set()

    async def _meet(self, call: str, token: object) -> None:
        if call in self.hangs:
            await anyio.sleep_forever()
        if call in self.fails:
            raise LookupError(f"no server for {token}\nsecond line")

    async def load(self, token: str) -> Stored | None:
        await self._meet("load", token)
        return await super().load(token)

    async def save(self, token: str | None, stored: Stored) -> str:
        await self._meet("save", token)
        return await super().save(token, stored)

    async def delete(self, token: str) -> None:
        await self._meet("delete", token)
        await super().delete(token)


async def status(app: App, cookie: str = "") -> int:
    async with peer_of(app) as peer:
        await peer.send(handshake("/chat", cookie=cookie))
        return (await peer.head())[0]


async def test_failures_refuse_handshakes_and_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    store = Failing()
    app, counter = counting(store)
    async with running(app):
        peer, headers = await opened(app)
        cookie = cookie_of(headers)
        token = cookie.partition("=")[2]
        store.fails = {"load"}
        for _ in range(10):
            assert await status(app, cookie) == 503
        store.fails = {"save"}
        assert await status(app) == 503, "a new session could not be saved"
        store.fails = {"save", "load", "delete"}
        for call in "save", "reload", "destroy":
            answer = await told(peer, call)
            assert answer == "SessionUnavailable: the session store in memory is unavailable"
        assert (await told(peer, "show"))["messages"] == 1, "nothing is lost here"
        store.fails = set()
        assert await status(app, cookie) == 101
        peer.disconnect()
        assert all(isinstance(exc, SessionUnavailable) for exc in counter.failed)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines == [
        "the session store in memory is unavailable (LookupError: no server for (token)\\nsecond line); "
        "handshakes are answered with 503",
        "the session store in memory is available again, after 14 failures",
    ]
    assert token not in caplog.text


async def test_a_refused_handshake_can_be_tried_again() -> None:
    store = Failing()
    store.fails = {"load"}
    app, _ = counting(store)
    async with running(app), peer_of(app) as peer:
        await peer.send(handshake("/chat", cookie="session=" + "a" * 43))
        status, headers, body = await peer.response()
    assert (status, headers["retry-after"]) == (503, "1")
    assert body == b"sessions are not available at the moment\n"


@pytest.mark.parametrize("call", ["load", "save", "delete"])
async def test_a_store_that_hangs(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STORE_SECONDS", 0.05)
    store = Failing()
    app, _ = counting(store)
    async with running(app):
        peer, headers = await opened(app)
        store.hangs = {call}
        if call == "delete":
            assert (await told(peer, "destroy")).startswith("SessionUnavailable: ")
        else:
            assert await status(app, cookie_of(headers)) == 503
        store.hangs = set()
        assert await status(app, cookie_of(headers)) == 101
        peer.disconnect()


async def test_a_session_that_ends_during_a_handshake() -> None:
    class Slow(MessageComponent):
        async def on_handshake(self, request: Request) -> None:
            await store.delete(request.cookies["session"])  # as another process does when the user logs out
            request.session["a"] = 2

    store = MemorySessionStore()
    token = await store.save(None, Stored({"a": 1}))
    app = App("*", 0, session_store=store)
    app.route("/chat", Slow())
    async with running(app):
        assert await status(app, f"session={token}") == 403
    assert len(store) == 0


async def test_a_task_that_outlives_the_answer_cannot_save_a_new_session() -> None:
    results: list[Exception] = []

    class Late(MessageComponent):
        def on_handshake(self, request: Request) -> None:
            self.session = request.session

        async def on_open(self, conn: Connection) -> None:
            self.session["a"] = 1
            try:
                await self.session.save()
            except SessionError as exc:
                results.append(exc)
            conn.close()

    store = MemorySessionStore()
    app = App("*", 0, session_store=store)
    app.route("/chat", Late())
    async with running(app):
        peer, headers = await opened(app)
        await peer.receive_close()
        peer.disconnect()
    assert "set-cookie" not in headers
    assert len(results) == 1
    assert len(store) == 0


async def test_a_cookie_over_tls() -> None:
    class Page(MessageComponent):
        def on_request(self, request: Request) -> Any:
            request.session["a"] = 1
            return Response("page")

    middleware = SessionMiddleware(Page(), MemorySessionStore())
    async with secured(Site(middleware.on_request, middleware.on_handshake)) as (_, stream):
        await stream.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive()
    assert b"Set-Cookie: __Host-session=" in answer
    assert b"; Path=/; Max-Age=1209600; HttpOnly; Secure; SameSite=Lax\r\n" in answer


async def test_a_fixed_session_keeps_its_end_in_the_cookie() -> None:
    class Timed(MemorySessionStore):
        time = 1_000_000.0

        def now(self) -> float:
            return self.time

    store = Timed(max_age=100, sliding=False)
    app = App("*", 0, session_store=store)

    @app.http("/change")
    def change(request: Request) -> str:
        request.session["n"] = request.session.get("n", 0) + 1
        return str(request.session["n"])

    @app.http("/look")
    def look(request: Request) -> str:
        return str(request.session.get("n"))

    @app.http("/rotate")
    async def rotate(request: Request) -> None:
        await request.session.rotate()
        return "rotated"  # type: ignore[return-value]

    async with running(app):
        _, headers, _ = await fetched(app, "/change")
        cookie = cookie_of(headers)
        assert "Max-Age=100;" in headers["set-cookie"]
        store.time += 60
        _, headers, body = await fetched(app, "/change", cookie)
        assert (body, headers.get("set-cookie")) == ("2", None)
        _, headers, _ = await fetched(app, "/rotate", cookie)
        cookie = cookie_of(headers)
        assert "Max-Age=40;" in headers["set-cookie"]
        store.time += 39
        assert (await fetched(app, "/look", cookie))[2] == "2"
        store.time += 1
        assert (await fetched(app, "/look", cookie))[2] == "None"


async def test_a_cookie_without_an_age() -> None:
    class Short(MemorySessionStore):
        def cookie_seconds(self, data: Any) -> int | None:
            return None

    app, _ = counting(Short(cookie=SessionCookie(name="short", same_site="strict")))
    async with running(app):
        peer, headers = await opened(app)
        peer.disconnect()
    assert headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")


@pytest.mark.parametrize(
    ("cookie", "lines"),
    [
        (SessionCookie(), []),
        (SessionCookie(secure=False), ["secure=False: a network without TLS can see it"]),
        (SessionCookie(http_only=False), ["http_only=False: a script in a page can read it"]),
    ],
)
async def test_an_unsafe_cookie_has_a_warning(
    cookie: SessionCookie, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    MemorySessionStore(cookie=cookie)
    found = [record.getMessage() for record in caplog.records]
    assert found == [f"the cookie 'session' of sessions has {line}" for line in lines]


# -- the mapping -------------------------------------------------------------------------------------------------------


async def test_the_mapping() -> None:
    session = await SessionService(MemorySessionStore()).open(Request())
    assert (session.is_new, session.is_modified, len(session), list(session)) == (True, False, 0, [])
    session["list"] = []
    assert session.is_modified
    await session.save()
    assert (session.is_new, session.is_modified) == (False, False)
    session["list"].append(1)
    assert session.is_modified, "a change of a nested value counts"
    await session.reload()
    assert dict(session) == {"list": []}
    session.update(a=1)
    del session["a"]
    assert session.is_modified
    assert session.setdefault("b", 2) == session.pop("b") == 2
    assert "b" not in session
    with pytest.raises(TypeError, match="the keys of a session are str, not int"):
        session[1] = 2  # type: ignore[index]
    with pytest.raises(KeyError):
        session["missing"]
    await session.destroy()
    assert (dict(session), session.is_new, session.is_modified) == ({}, True, False)


async def test_a_session_shows_no_secrets() -> None:
    store = MemorySessionStore()
    session = await SessionService(store).open(Request())
    session["password"] = "hunter2"
    await session.save()
    text = f"{session} {session!r} {Request()!r}"
    assert text.startswith("<Session saved, 1 keys>")
    for secret in "hunter2", "password", str(session._token):
        assert secret not in text
    with pytest.raises(AttributeError):
        session.other = 1  # type: ignore[attr-defined]


async def test_a_value_that_is_no_json_fails_clearly() -> None:
    session = await SessionService(MemorySessionStore(max_size=100)).open(Request())
    for value, message in (
        (object(), "cannot be saved as JSON: Object of type object is not JSON serializable"),
        (float("nan"), "cannot be saved as JSON: Out of range float values"),
        ("\udc80", "cannot be saved as JSON: "),
        ("x" * 100, "the session has 112 bytes, and max_size of its store is 100: keep less in it"),
    ):
        session["value"] = value
        with pytest.raises(SessionError, match=message):
            await session.save()
    assert session.is_new


async def test_a_new_id_does_not_bring_a_destroyed_session_back() -> None:
    store = MemorySessionStore()
    sessions = SessionService(store)
    one = await sessions.open(Request())
    one["user"] = "Ana"
    await one.save()
    other = await sessions.open(Request(headers=[("Cookie", f"session={one._token}")]))
    await one.destroy()
    with pytest.raises(SessionEnded):
        await other.rotate()
    assert len(store) == 0


async def test_destroying_ends_the_session_for_others() -> None:
    sessions = SessionService(MemorySessionStore())
    one = await sessions.open(Request())
    one["a"] = 1
    await one.save()
    other = await sessions.open(Request(headers=[("Cookie", f"session={one._token}")]))
    assert dict(other) == {"a": 1}
    await one.destroy()
    with pytest.raises(SessionEnded):
        await other.save()
    await other.destroy()


# -- the log of outages ------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_reminders_become_rare(caplog: pytest.LogCaptureFixture) -> None:
    log = OutageLog()
    for second in range(3600):
        log.note_failed("redis", OSError("refused"), None, float(second))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "redis is unavailable (OSError: refused); handshakes are answered with 503"
    seconds = [line.split(" for ")[1].split(" ")[0] for line in lines[1:]]
    assert seconds == ["30", "60", "120", "240", "480", "960", "1920"]
    assert lines[1] == "redis has been unavailable for 30 seconds (OSError: refused); it failed 31 times"
    log.note_works("redis")
    log.note_works("redis")
    assert caplog.records[-1].getMessage() == "redis is available again, after 3600 failures"
    assert len(caplog.records) == len(lines) + 1
    assert outage.FIRST_REMINDER_SECONDS == 30


@pytest.mark.once
def test_a_store_that_fails_now_and_then_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = OutageLog()
    for second in range(3600):
        log.note_failed("redis", OSError("refused"), None, float(second))
        log.note_failed("redis", OSError("refused"), None, second + 0.5)
        log.note_works("redis")
    assert len(caplog.records) == 2 * 3600 / 30
    assert {record.levelname for record in caplog.records} == {"ERROR", "WARNING"}


@pytest.mark.once
def test_sessions_that_cannot_be_read_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = OutageLog()
    for number in range(100):
        log.note_unreadable("php", SessionError(f"it has the token {'t' * 26} {'x' * 1000}"), "t" * 26)
        assert log.unreadable == number + 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 7, "the first, second, fourth, ... and 64th"
    assert lines[-1].endswith(" (64 so far)")
    assert all(len(line) < 300 and "ttt" not in line for line in lines)
