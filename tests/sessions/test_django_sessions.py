"""Sessions of Django: all engines through Django itself, and its signed cookies without it. Django writes and reads."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import anyio.to_thread
import django
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import signing
from django.core.cache import caches
from django.core.management import call_command
from django.db import connections
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.test.utils import override_settings
from django.urls import path
from support.services import Redis
from support.sessions import cookie_of, counting, opened, told
from support.wire import handshake, peer_of, running

from pywsapp import App, Connection, MessageComponent
from pywsapp.auth.django import django_user
from pywsapp.exceptions import ConfigurationError, SessionError
from pywsapp.sessions import Stored
from pywsapp.sessions.django import DjangoSessionStore
from pywsapp.sessions.django_cookie import DjangoCookieStore
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, SessionCheck

pytestmark = pytest.mark.anyio

T = TypeVar("T")
KEY = "the secret of the site"
DATA = {"_auth_user_id": "7", "name": "Zoë \N{GRINNING FACE}", "cart": [{"id": 1.5}, None, True], "text": "x" * 200}
ENGINES = ["cache", "cached_db", "db", "signed_cookies"]


# -- the site ----------------------------------------------------------------------------------------------------------


def write(request: HttpRequest) -> JsonResponse:
    request.session.update(DATA)
    if "expiry" in request.GET:
        request.session.set_expiry(int(request.GET["expiry"]))
    return JsonResponse({})


def read(request: HttpRequest) -> JsonResponse:
    return JsonResponse(dict(request.session.items()))


def logout(request: HttpRequest) -> JsonResponse:
    request.session.flush()
    return JsonResponse({})


urlpatterns = [path("write", write), path("read", read), path("logout", logout)]


@pytest.fixture(scope="module", autouse=True)
def _site(redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    settings.configure(
        SECRET_KEY=KEY,
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["django.contrib.sessions", "django.contrib.contenttypes", "django.contrib.auth"],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # the usual one is slow
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        ROOT_URLCONF=__name__,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": tmp_path_factory.mktemp("django") / "site.sqlite3",
                "OPTIONS": {"timeout": 20, "init_command": "PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY;"},
            }
        },
        CACHES={"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": redis.url}},
        LOGGING_CONFIG=None,
    )
    django.setup()
    call_command("migrate", verbosity=0)
    connections.close_all()
    yield
    caches.close_all()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Select an engine for the site; the name of the test has it."""
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{request.param}"):
        yield request.param


async def ask(target: str, cookie: str = "") -> tuple[Any, str]:
    """Ask the site, in a thread; return the answer and the cookie that it sets, as name=value."""

    def run() -> tuple[Any, str]:
        try:
            client = Client()
            if cookie:
                name, _, value = cookie.partition("=")
                client.cookies[name] = value
            response = client.get(target)
            found = response.cookies.get(settings.SESSION_COOKIE_NAME)
            return json.loads(response.content), f"{found.key}={found.value}" if found else ""
        finally:
            connections.close_all()

    return await anyio.to_thread.run_sync(run)


# -- through Django ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["cache", "cached_db", "signed_cookies"], indirect=True)
@pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
async def test_django_passes(check: SessionCheck, engine: str) -> None:
    await check(DjangoSessionStore)


async def test_a_session_of_django_is_read_and_written(engine: str) -> None:
    _, cookie = await ask("/write")
    app, counter = counting(DjangoSessionStore())
    async with running(app):
        peer, headers = await opened(app, "/chat?look", cookie)
        assert "set-cookie" not in headers
        assert await told(peer, "show") == {**DATA, "new": False}
        peer.disconnect()
        peer, headers = await opened(app, cookie=cookie)
        if engine == "signed_cookies":
            cookie = cookie_of(headers)
            assert (await told(peer, "save")).startswith("SessionError: ")
            assert (await ask("/read", cookie))[0] == {**DATA, "handshakes": 1}
        else:
            assert "set-cookie" not in headers
            assert await told(peer, "save") == {**DATA, "handshakes": 1, "messages": 1, "new": False}
            assert (await ask("/read", cookie))[0] == {**DATA, "handshakes": 1, "messages": 1}
            await ask("/logout", cookie)
            assert (await told(peer, "save")).startswith("SessionEnded: ")
            assert await told(peer, "reload") == {"new": True}
            assert len(counter.failed) == 1
        peer.disconnect()


async def test_a_session_that_begins_here_is_read_by_django(engine: str) -> None:
    app, _ = counting(DjangoSessionStore())
    async with running(app):
        peer, headers = await opened(app)
        assert headers["set-cookie"].startswith("sessionid=")
        assert headers["set-cookie"].endswith("; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax")
        assert (await ask("/read", cookie_of(headers)))[0] == {"handshakes": 1}
        peer.disconnect()


async def test_the_settings_of_the_site(engine: str) -> None:
    with override_settings(
        SESSION_COOKIE_NAME="own",
        SESSION_COOKIE_PATH="/chat",
        SESSION_COOKIE_DOMAIN="localhost",
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_HTTPONLY=False,
        SESSION_EXPIRE_AT_BROWSER_CLOSE=True,
    ):
        app, _ = counting(DjangoSessionStore())
        async with running(app):
            peer, headers = await opened(app)
            assert headers["set-cookie"].startswith("own=")
            assert headers["set-cookie"].endswith("; Path=/chat; Domain=localhost; Secure; SameSite=Strict")
            peer.disconnect()


async def test_a_session_with_its_own_end(engine: str) -> None:
    if engine == "signed_cookies":
        pytest.skip("Django ignores the end in a signed cookie")
    _, cookie = await ask("/write?expiry=1000")
    app, _ = counting(DjangoSessionStore())
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        sliding, _ = counting(DjangoSessionStore())
    async with running(sliding):
        peer, headers = await opened(sliding, "/chat?look", cookie)
        assert "; Max-Age=1000; " in headers["set-cookie"]
        peer.disconnect()
    async with running(app):
        peer, headers = await opened(app, cookie="sessionid=" + "a" * 32)
        assert "; Max-Age=1209600; " in headers["set-cookie"], "a key that Django does not know is not accepted"
        assert cookie_of(headers) != "sessionid=" + "a" * 32
        peer.disconnect()


@pytest.mark.parametrize("engine", ["cache"], indirect=True)
async def test_an_unavailable_cache_is_no_empty_session(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    location = "redis://127.0.0.1:1"
    backend = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": location}}
    with override_settings(CACHES=backend):
        app, _ = counting(DjangoSessionStore())
        async with running(app), peer_of(app) as peer:
            await peer.send(handshake("/chat?look", cookie="sessionid=" + "a" * 32))
            assert (await peer.head())[0] == 503
    assert "the session store of Django (cache) is unavailable (ConnectionError: " in caplog.text
    assert "a" * 32 not in caplog.text


@pytest.mark.parametrize("engine", ["db"], indirect=True)
async def test_a_database_without_the_table(engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = settings.DATABASES["default"]["NAME"]
    with sqlite3.connect(name) as database:
        database.execute("ALTER TABLE django_session RENAME TO hidden")
    database.close()
    try:
        app, _ = counting(DjangoSessionStore())
        async with running(app), peer_of(app) as peer:
            await peer.send(handshake("/chat", cookie="sessionid=" + "a" * 32))
            assert (await peer.head())[0] == 503
    finally:
        with sqlite3.connect(name) as database:
            database.execute("ALTER TABLE hidden RENAME TO django_session")
        database.close()
    assert "the session store of Django (db) is unavailable (OperationalError: no such table" in caplog.text


@pytest.mark.once
def test_django_without_settings() -> None:
    code = "from pywsapp.sessions.django import DjangoSessionStore; DjangoSessionStore()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert "ConfigurationError: Django cannot open the sessions of the site: Requested setting" in done.stderr


# -- the user of the site ----------------------------------------------------------------------------------------------


class Hello(MessageComponent):
    def on_open(self, conn: Connection) -> None:
        conn.send(f"hello {conn.user.get_username()}, {conn.user.pk}")


class Member:
    """A user of the site who has logged in.

    Attributes:
        pk: the primary key.
        cookie: the cookie of the session.
    """

    def __init__(self) -> None:
        user = get_user_model().objects.create_user(uuid4().hex, password="tea")
        client = Client()
        assert client.login(username=user.username, password="tea")
        self.name, self.pk = user.username, user.pk
        self.cookie = f"sessionid={client.cookies['sessionid'].value}"
        connections.close_all()

    def change(self, change: Callable[[Any], Any]) -> None:
        """Change the user as another process of the site would."""
        user = get_user_model().objects.get(pk=self.pk)
        change(user)
        if user.pk:
            user.save()
        connections.close_all()


async def hello(cookie: str) -> str | int:
    """Return what a component says to the user, or the status of the refused handshake."""
    app = App("*", 0, session_store=DjangoSessionStore(), authenticate=django_user)
    app.route("/hello", Hello())
    async with running(app), peer_of(app) as peer:
        await peer.send(handshake("/hello", cookie=cookie))
        status, _ = await peer.head()
        return (await peer.frame())[1].decode() if status == 101 else status


async def in_thread(function: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(function)


async def test_the_user_of_the_site(engine: str) -> None:
    member = await in_thread(Member)
    assert await hello(member.cookie) == f"hello {member.name}, {member.pk}"
    assert await hello("") == 401
    assert await hello("sessionid=" + "a" * 32) == 401


@pytest.mark.parametrize("engine", ["cached_db", "signed_cookies"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        lambda user: user.set_password("coffee"),
        lambda user: setattr(user, "is_active", False),
        lambda user: user.delete(),
    ],
    ids=["password", "inactive", "deleted"],
)
async def test_a_user_who_may_not_log_in_any_more(change: Callable[[Any], Any], engine: str) -> None:
    member = await in_thread(Member)
    await in_thread(lambda: member.change(change))
    assert await hello(member.cookie) == 401


@pytest.mark.parametrize("engine", ["db"], indirect=True)
async def test_a_user_with_a_session_of_the_old_key(engine: str) -> None:
    member = await in_thread(Member)
    with override_settings(SECRET_KEY="newer"):
        assert await hello(member.cookie) == 401
        with override_settings(SECRET_KEY_FALLBACKS=[KEY]):
            assert await hello(member.cookie) == f"hello {member.name}, {member.pk}"


# -- the cookie, without Django ----------------------------------------------------------------------------------------


@pytest.fixture
def signed_cookies() -> Iterator[None]:
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies"):
        yield


@pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
async def test_the_cookie_passes(check: SessionCheck) -> None:
    await check(lambda: DjangoCookieStore(KEY))


@pytest.mark.parametrize("data", [{"a": 1}, DATA, {"text": "\N{SNOWMAN}" * 50}, {}])
async def test_a_cookie_goes_both_ways(data: dict[str, Any], signed_cookies: None) -> None:
    theirs, ours = DjangoSessionStore(), DjangoCookieStore(KEY)
    token = await ours.save(None, Stored(data))
    assert await theirs.load(token) == (Stored(data) if data else None)
    assert await ours.load(token) == Stored(data)
    token = await theirs.save(None, Stored(data))
    assert await ours.load(token) == Stored(data)


async def test_a_handshake_with_the_cookie_of_django(signed_cookies: None) -> None:
    _, cookie = await ask("/write")
    app, _ = counting(DjangoCookieStore(KEY))
    async with running(app):
        peer, headers = await opened(app, cookie=cookie)
        assert await told(peer, "show") == {**DATA, "handshakes": 1, "new": False}
        assert (await ask("/read", cookie_of(headers)))[0] == {**DATA, "handshakes": 1}
        peer.disconnect()


class Timed(DjangoCookieStore):
    later = 0.0

    def now(self) -> float:
        return super().now() + self.later


async def test_keys_and_age(signed_cookies: None) -> None:
    _, cookie = await ask("/write")
    token = cookie.partition("=")[2]
    with override_settings(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=[KEY]):
        _, rotated = await ask("/write")
    store = Timed(["newer", KEY], max_age=100)
    for one in token, rotated.partition("=")[2]:
        assert await store.load(one) == Stored(DATA)
    assert await DjangoCookieStore(KEY).load(rotated.partition("=")[2]) is None
    assert await DjangoCookieStore(KEY, salt="other").load(token) is None
    store.later = 99
    assert await store.load(token) == Stored(DATA)
    store.later = 102
    assert await store.load(token) is None


async def test_what_is_signed_and_no_session(signed_cookies: None) -> None:
    salt = "django.contrib.sessions.backends.signed_cookies"

    class Raw:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def dumps(self, value: Any) -> bytes:
            return self._data

    def token(data: bytes, *, compress: bool) -> str:
        return str(signing.dumps({}, salt=salt, serializer=partial(Raw, data), compress=compress))

    store = DjangoCookieStore(KEY, max_size=1000)
    for data in b"\x80\x04}.", b"[1]", b"{", b"[" * 900:
        with pytest.raises(SessionError, match="it is not JSON"):
            await store.load(token(data, compress=False))
    bomb = token(b"{" + b" " * 20_000_000 + b"}", compress=True)
    tracemalloc.start()
    with pytest.raises(SessionError, match="it has more than 1000 bytes"):
        await store.load(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000, "it is inflated no further than allowed"


async def test_mistakes() -> None:
    with pytest.raises(ConfigurationError):
        DjangoCookieStore("")
    with pytest.raises(SessionError, match="cannot be saved as JSON"):
        await DjangoCookieStore(KEY).save(None, Stored({"value": object()}))
