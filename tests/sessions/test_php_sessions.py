"""Sessions of PHP in files and in Redis, for reading: ids, folders, age, and files that PHP writes at the moment."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.php_output import PHP, PHP_SERIALIZE, VARIABLES
from support.services import Redis
from support.sessions import counting, opened
from support.wire import handshake, peer_of, running

from pywsapp import App, MessageComponent, Request
from pywsapp.exceptions import ConfigurationError, SessionError
from pywsapp.sessions import Stored, php
from pywsapp.sessions.php import PhpFileStore
from pywsapp.sessions.php_redis import PhpRedisStore
from pywsapp.testing.sessions import HOSTILE_TOKENS, open_stores

pytestmark = pytest.mark.anyio

ID = "0123456789abcdefghijklmnop"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / f"sess_{ID}"
    path.write_bytes(PHP)
    return path


async def test_a_file_is_read(file: Path) -> None:
    store = PhpFileStore(file.parent)
    assert await store.load(ID) == Stored(VARIABLES)
    assert await store.load("b" * 26) is None
    file.write_bytes(PHP_SERIALIZE)
    stored = await PhpFileStore(file.parent, handler="php_serialize").load(ID)
    assert stored is not None
    assert stored.data["user_id"] == 42
    with pytest.raises(SessionError, match="it is not of this serialize_handler"):
        await store.load(ID)


async def test_ids_are_no_paths(tmp_path: Path) -> None:
    store = PhpFileStore(tmp_path)
    (tmp_path / "sess_short").write_bytes(PHP)
    (tmp_path / "secret").write_bytes(PHP)
    (tmp_path / "sess_..").mkdir()
    paths = ["short", "../secret", "../" * 10 + "secret.......", "a" * 300, "a" * 26 + "\0", "a" * 26 + "\n"]
    for token in *HOSTILE_TOKENS, *paths:
        assert await store.load(token) is None


async def test_levels_of_folders(file: Path) -> None:
    inner = file.parent / "0" / "1"
    inner.mkdir(parents=True)
    file.rename(inner / file.name)
    for path in f"2;{file.parent}", f"2;0600;{file.parent}":
        assert await PhpFileStore(path).load(ID) == Stored(VARIABLES)
    assert await PhpFileStore(file.parent).load(ID) is None


async def test_what_is_no_file_of_a_session(file: Path) -> None:
    store = PhpFileStore(file.parent)
    link = file.parent / ("sess_" + "l" * 26)
    link.symlink_to(file)
    (file.parent / ("sess_" + "d" * 26)).mkdir()
    os.mkfifo(file.parent / ("sess_" + "f" * 26))
    assert await store.load("d" * 26) is None
    assert await store.load("f" * 26) is None
    with pytest.raises(OSError, match="symbolic links"):
        await store.load("l" * 26)


async def test_age_and_size(file: Path) -> None:
    store = PhpFileStore(file.parent, max_age=100)
    now = store.now()
    os.utime(file, (now - 90, now - 90))
    assert await store.load(ID) is not None
    os.utime(file, (now - 110, now - 110))
    assert await store.load(ID) is None
    os.utime(file)
    with pytest.raises(SessionError, match="it has 11 bytes, and max_size is 10"):
        await PhpFileStore(file.parent, max_size=10).load(ID)


async def test_a_file_that_php_uses(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PHP locks the file for a whole request."""
    store = PhpFileStore(file.parent)
    with open(file, "rb+") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        assert await store.load(ID) == Stored(VARIABLES)
        locked.truncate(0)

        def write(seconds: float) -> None:
            locked.write(b"user|i:7;")
            locked.flush()
            fcntl.flock(locked, fcntl.LOCK_UN)

        monkeypatch.setattr(php, "time", SimpleNamespace(sleep=write))  # PHP ends while the store waits for the lock
        found = await store.load(ID)
    assert found == Stored({"user": 7}), "it was read between the two steps of a write"


async def test_handshakes_read_the_session(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    greeted = []

    class Account(MessageComponent):
        def on_handshake(self, request: Request) -> None:
            greeted.append(request.session.get("user_id"))

    app = App("*", 0, session_store=PhpFileStore(file.parent))
    app.route("/chat", Account())
    async with running(app):
        for cookie in f"PHPSESSID={ID}", "PHPSESSID=" + "b" * 26, "":
            peer, headers = await opened(app, cookie=cookie)
            assert "set-cookie" not in headers
            peer.disconnect()
        file.write_bytes(b"user_id|O:")
        peer, _ = await opened(app, cookie=f"PHPSESSID={ID}")
        peer.disconnect()
    assert greeted == [42, None, None, None]
    assert "a session of the session store of PHP's files counts as empty: a value should be at byte 8" in caplog.text
    assert ID not in caplog.text


async def test_changes_are_refused(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    app, _ = counting(PhpFileStore(file.parent))
    async with running(app), peer_of(app) as peer:
        await peer.send(handshake("/chat", cookie=f"PHPSESSID={ID}"))
        assert (await peer.head())[0] == 500
    assert "SessionError: the session store of PHP's files can only be read" in caplog.text
    assert file.read_bytes() == PHP
    store = PhpFileStore(file.parent)
    for call in store.save(ID, Stored({})), store.delete(ID):
        with pytest.raises(SessionError, match="can only be read"):
            await call


async def test_mistakes(tmp_path: Path) -> None:
    for path in tmp_path / "missing", f"x;{tmp_path}", f"-1;{tmp_path}":
        with pytest.raises(ConfigurationError, match="is no folder of PHP's sessions"):
            PhpFileStore(path)
    with pytest.raises(ConfigurationError, match="handler is 'php' or 'php_serialize'"):
        PhpFileStore(tmp_path, handler="wddx")


# -- Redis -------------------------------------------------------------------------------------------------------------


async def test_a_session_in_redis(redis: Redis) -> None:
    redis.ask("SET", f"PHPREDIS_SESSION:{ID}", "user|i:7;")
    redis.ask("SADD", "PHPREDIS_SESSION:" + "s" * 26, "a")
    async with open_stores(lambda: PhpRedisStore(redis.url)) as (store,):
        assert await store.load(ID) == Stored({"user": 7})
        assert await store.load("b" * 26) is None
        for token in HOSTILE_TOKENS:
            assert await store.load(token) is None
        with pytest.raises(Exception, match="WRONGTYPE"):
            await store.load("s" * 26)
