"""Sessions in memcached: the contract on a real server, the life of keys, restarts, and answers that are not valid."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import anyio.abc
import pytest
from support.services import Memcached, memcached_server
from support.serving import GUARD
from support.sessions import cookie_of, counting, opened, told
from support.wire import handshake, peer_of, running

from pywsapp._clients.memcached_client import MemcachedClient, MemcachedError
from pywsapp.exceptions import ConfigurationError
from pywsapp.sessions import Stored
from pywsapp.sessions.memcached import MemcachedSessionStore
from pywsapp.sessions.urls import session_store_for
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, SessionCheck, open_stores

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def memcached() -> Iterator[Memcached]:
    with memcached_server() as server:
        yield server


@pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
async def test_memcached_passes(check: SessionCheck, memcached: Memcached) -> None:
    await check(lambda: session_store_for(memcached.url))


def life(server: Memcached, key: str) -> int:
    """Return the seconds that a key has left."""
    answer = server.ask(f"mg {key} t")
    assert answer.startswith("HD t"), answer
    return int(answer.removeprefix("HD t"))


async def test_the_life_of_keys(memcached: Memcached) -> None:
    client = MemcachedClient(memcached.url)
    for seconds in 1000, 60 * 24 * 3600:  # memcached takes more than 30 days for a time since 1970
        await client.set(b"key", b"value", seconds)
        assert abs(life(memcached, "key") - seconds) <= GUARD
        await client.set(b"key", b"value", 500)
        assert await client.get(b"key") == b"value"
        assert abs(life(memcached, "key") - 500) <= GUARD
        assert await client.get(b"key", seconds) == b"value"
        assert abs(life(memcached, "key") - seconds) <= GUARD
    assert await client.delete(b"key")
    assert not await client.delete(b"key")
    assert not await client.set(b"key", b"value", 10, replace=True)
    with pytest.raises(MemcachedError, match="too large"):
        await client.set(b"key", b"x" * 1_100_000, 10)
    assert await client.get(b"key") is None
    await client.aclose()


async def test_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    with memcached_server() as server:
        app, _ = counting(server.url)
        async with running(app):
            peer, headers = await opened(app)
            cookie = cookie_of(headers)
            assert await told(peer, "save") == {"handshakes": 1, "messages": 1, "new": False}
            server.kill()
            async with peer_of(app) as other:
                await other.send(handshake("/chat", cookie=cookie))
                assert (await other.head())[0] == 503
            server.start()
            assert (await told(peer, "save")).startswith("SessionEnded: "), "memcached has forgotten it"
            peer.disconnect()
            peer, headers = await opened(app, cookie=cookie)
            assert cookie_of(headers) != cookie
            server.kill()  # between two commands, so an idle connection is lost
            server.start()
            assert (await told(peer, "reload"))["new"]
            peer.disconnect()
    assert caplog.text.count("is unavailable") == 1
    assert caplog.text.count("is available again, after 1 failures") == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"VALUE\r\n",
        b"VALUE a 0 x\r\n",
        b"VALUE a 0 -1\r\n",
        b"VALUE a 0 99999999999\r\n",
        b"VALUE a 0 3\r\nabcd\r\nEND\r\n",
        b"VALUE a 0 3\r\nabc\r\nVALUE b 0 1\r\n",
        b"VALUE a 0 3\r\nab",
        b"STORED\r\n",
        b"SERVER_ERROR out of memory\r\n",
        b"x" * 5000,
    ],
)
async def test_an_answer_that_is_not_valid_is_an_error(answer: bytes) -> None:
    connections = 0

    async def serve(stream: anyio.abc.SocketStream) -> None:
        nonlocal connections
        connections += 1
        async with stream:
            await stream.receive()
            await stream.send(answer)
            if len(answer) == 5000:
                await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        client = MemcachedClient(f"memcached://127.0.0.1:{port}")
        for call in (lambda: client.get(b"a"), lambda: client.delete(b"a")):
            with anyio.fail_after(GUARD), pytest.raises(Exception):  # noqa: B017, PT011 - any exception is right
                await call()
        assert connections >= 2, "a connection with a wrong answer is not used again"
        await client.aclose()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "url",
    [
        "memcached://",
        "memcached://user:secret@host",
        "memcached://host/0",
        "memcached://a,b",
        "memcached://host:99999",
        "memcached://host:port",
        "memcached://host?timeout=1",
    ],
)
async def test_an_invalid_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="use memcached://host:port") as raised:
        session_store_for(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("prefix", ["a b", "\N{SNOWMAN}", "x" * 200, "a\n"])
async def test_an_invalid_prefix(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the beginning of keys"):
        MemcachedSessionStore("memcached://localhost", prefix=prefix)


async def test_an_old_value_is_not_read(memcached: Memcached) -> None:
    async with open_stores(lambda: session_store_for(memcached.url)) as (store,):
        token = await store.save(None, Stored({"a": 1}))
        memcached.ask("flush_all\r\nversion")
        assert await store.load(token) is None
