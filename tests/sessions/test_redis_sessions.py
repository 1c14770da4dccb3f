"""Sessions in Redis: the contract on a real server, the life of keys, restarts and outages."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest
from support.services import Redis, redis_server
from support.sessions import cookie_of, counting, opened, told
from support.wire import handshake, peer_of, running

from pywsapp.exceptions import ConfigurationError
from pywsapp.sessions import Stored
from pywsapp.sessions.redis import RedisSessionStore
from pywsapp.sessions.urls import session_store_for
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, SessionCheck, open_stores

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _empty(redis: Redis) -> None:
    redis.ask("FLUSHALL")


@pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
async def test_redis_passes(check: SessionCheck, redis: Redis) -> None:
    await check(lambda: session_store_for(redis.url))


async def test_a_unix_socket(redis: Redis) -> None:
    await SESSION_STORE_CHECKS["what_was_saved_is_loaded"](lambda: session_store_for(f"unix://{redis.socket}"))


def keys(redis: Redis, prefix: str) -> list[str]:
    return [line for line in redis.ask("KEYS", f"{prefix}*").split("\r\n") if line.startswith(prefix)]


def life(redis: Redis, key: str) -> int:
    """Return the seconds that a key has left."""
    return int(redis.ask("TTL", key).removeprefix(":"))


async def test_the_life_of_keys(redis: Redis) -> None:
    url = f"{redis.url}?max_age=1000"
    async with open_stores(lambda: session_store_for(f"{url}&prefix=slide:")) as (store,):
        token = await store.save(None, Stored({"a": 1}))
        (key,) = keys(redis, "slide:")
        assert token not in key, "the key is a digest"
        assert life(redis, key) > 900
        redis.ask("EXPIRE", key, "500")
        assert await store.load(token) == Stored({"a": 1})
        assert life(redis, key) > 900, "each request begins the time anew"
    async with open_stores(lambda: session_store_for(f"{url}&prefix=fixed:&sliding=0")) as (store,):
        end = int(store.now()) + 500
        token = await store.save(None, Stored({"a": 1}, end))
        (key,) = keys(redis, "fixed:")
        for _ in range(2):
            assert 400 < life(redis, key) <= 501
            assert await store.load(token) == Stored({"a": 1}, end)
            await store.save(token, Stored({"a": 1}, end))


async def test_a_handshake_on_two_processes(redis: Redis) -> None:
    """Two Apps with stores of their own stand for two processes."""
    one, other = (counting(f"{redis.url}?prefix=two:")[0] for _ in range(2))
    async with running(one), running(other):
        peer, headers = await opened(one)
        assert await told(peer, "save") == {"handshakes": 1, "messages": 1, "new": False}
        peer.disconnect()
        peer, _ = await opened(other, cookie=cookie_of(headers))
        assert await told(peer, "show") == {"handshakes": 2, "messages": 1, "new": False}
        peer.disconnect()


async def status(app: object, cookie: str) -> int:
    async with peer_of(app) as peer:  # type: ignore[arg-type]
        await peer.send(handshake("/chat", cookie=cookie))
        return (await peer.head())[0]


async def test_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server("--user", "web", "on", ">secret", "~*", "+@all") as server:
        app, counter = counting(f"redis://web:secret@127.0.0.1:{server.port}")
        async with running(app):
            peer, headers = await opened(app)
            cookie = cookie_of(headers)
            server.kill()
            for _ in range(5):
                assert await status(app, cookie) == 503
            answer = await told(peer, "save")
            assert answer == f"SessionUnavailable: the session store redis://127.0.0.1:{server.port} is unavailable"
            server.start()
            assert (await told(peer, "reload"))["new"], "this server keeps nothing over a restart"
            assert await status(app, cookie) == 101
            assert len(counter.failed) == 1
            peer.disconnect()
    lines = [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "WARNING")]
    assert len(lines) == 2, lines
    assert lines[0].startswith(f"the session store redis://127.0.0.1:{server.port} is unavailable (ConnectionError: ")
    assert lines[1] == f"the session store redis://127.0.0.1:{server.port} is available again, after 6 failures"
    assert "secret" not in caplog.text
    assert cookie.partition("=")[2] not in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "pywsapp redis"]


async def test_a_server_that_has_restarted_between_two_commands() -> None:
    with redis_server() as server:
        async with open_stores(lambda: session_store_for(server.url)) as (store,):
            for _ in range(3):
                token = await store.save(None, Stored({"a": 1}))
                server.kill()
                server.start()
                assert await store.load(token) is None, "the command is sent again on a new connection"


async def test_something_else_under_the_key_is_an_empty_session(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    app, _ = counting(f"{redis.url}?prefix=other:")
    async with running(app):
        peer, headers = await opened(app)
        peer.disconnect()
        (key,) = keys(redis, "other:")
        for number, value in enumerate(("", "[1]", '{"data":[]}', "\udc80", "[" * 50_000, '{"data":{},"expires":"a"}')):
            redis.ask("SET", key, value.encode(errors="replace").decode())
            peer, again = await opened(app, cookie=cookie_of(headers))
            assert cookie_of(again) != cookie_of(headers), number
            assert await told(peer, "show") == {"handshakes": 1, "new": False}
            peer.disconnect()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.rpartition("(")[2] for line in lines] == ["1 so far)", "2 so far)", "4 so far)"]
    assert lines[0].startswith(f"a session of the session store redis://127.0.0.1:{redis.port} counts as empty: it is")


async def test_a_user_with_the_documented_rights(redis: Redis) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "sessions.md").read_text()
    (command,) = [line for line in text.splitlines() if line.startswith("ACL SETUSER")]
    assert redis.ask(*command.split()) == "+OK"
    url = f"redis://pywsapp:secret@127.0.0.1:{redis.port}"
    for query in "", "?sliding=0":
        async with open_stores(partial(session_store_for, url + query)) as (store,):
            token = await store.save(None, Stored({"a": 1}, store.new_end()))
            assert (await store.load(token) or Stored({})).data == {"a": 1}
            await store.save(token, Stored({"a": 2}, store.new_end()))
            await store.delete(token)
            assert await store.load(token) is None


async def test_an_invalid_url() -> None:
    with pytest.raises(ConfigurationError, match="invalid URL of a Redis server"):
        RedisSessionStore("redis:/host")
