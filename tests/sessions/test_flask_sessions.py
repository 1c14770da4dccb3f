"""Sessions of Flask: in its own cookie, and with Flask-Session in Redis. Flask writes and reads them."""

from __future__ import annotations

import json
import pickle
import string
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import flask
import flask_session
import pytest
import redis as redis_py
from flask.json.tag import TaggedJSONSerializer
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup as FlaskMarkup
from support.services import Redis
from support.serving import GUARD
from support.sessions import cookie_of, counting, opened, told
from support.wire import running

from pywsapp.exceptions import ConfigurationError, SessionEnded, SessionError
from pywsapp.sessions import SessionStore, Stored
from pywsapp.sessions.flask import FlaskSessionStore
from pywsapp.sessions.flask_session import FlaskRedisStore
from pywsapp.sessions.tagged_json import Markup, dump_tagged, load_tagged
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, SessionCheck, open_stores

pytestmark = pytest.mark.anyio

KEY = "the secret of the site"
MOMENT = datetime(2026, 11, 30, 6, 30, 5, tzinfo=timezone.utc)
DATA: dict[str, Any] = {
    "_user_id": "7",
    "_flashes": [("message", "welcome"), ("error", "no")],
    "name": "Zoë \N{GRINNING FACE}",
    "cart": [{"id": 1.5}, None, True],
    "blob": b"\x00\xff",
    "id": UUID("12345678123456781234567812345678"),
    "since": MOMENT,
    "html": FlaskMarkup("<b>bold</b>"),
    "looks like a tag": {" t": [1]},
    "text": "x" * 200,
}


def site(**config: Any) -> flask.Flask:
    """Return a site that writes `DATA` into the session, and shows the session."""
    app = flask.Flask("site")
    app.config.update({"SECRET_KEY": KEY, **config})

    @app.get("/write")
    def write() -> str:
        flask.session.update(DATA if app.config.get("SESSION_TYPE") is None else plain())
        flask.session.permanent = bool(flask.request.args.get("permanent"))
        return ""

    @app.get("/read")
    def read() -> str:
        return repr(dict(flask.session))

    @app.get("/logout")
    def logout() -> str:
        flask.session.clear()
        return ""

    return app


def plain() -> dict[str, Any]:
    """Return the data that MessagePack and JSON have in common."""
    return {key: DATA[key] for key in ("_user_id", "name", "cart", "text")}


def written(app: flask.Flask, path: str = "/write") -> str:
    """Return the cookie that the site sets, as name=value."""
    return str(app.test_client().get(path).headers["Set-Cookie"]).partition(";")[0]


def read(app: flask.Flask, cookie: str) -> str:
    return app.test_client(use_cookies=False).get("/read", headers={"Cookie": cookie}).get_data(as_text=True)


# -- the cookie --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
async def test_the_store_passes(check: SessionCheck) -> None:
    await check(lambda: FlaskSessionStore(KEY))


async def test_a_session_of_flask_is_read() -> None:
    token = written(site()).partition("=")[2]
    assert token.startswith("."), "it is compressed"
    stored = await FlaskSessionStore(KEY).load(token)
    assert stored is not None
    assert stored.data == {**DATA, "_permanent": False}
    assert type(stored.data["_flashes"][0]) is tuple
    assert isinstance(stored.data["html"], Markup)


async def test_a_session_that_is_written_here_is_read_by_flask() -> None:
    token = await FlaskSessionStore(KEY).save(None, Stored(dict(DATA)))
    assert read(site(), f"session={token}") == repr(DATA)


async def test_handshakes_read_and_write() -> None:
    app, _ = counting(FlaskSessionStore(KEY, cookie="own"))
    page = site(SESSION_COOKIE_NAME="own")
    store = FlaskSessionStore(KEY)
    async with running(app):
        peer, headers = await opened(app)
        assert headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Lax"), "it is not permanent"
        assert read(page, cookie_of(headers)) == "{'handshakes': 1}"
        assert await told(peer, "show") == {"handshakes": 1, "new": False}
        peer.disconnect()
        permanent = await store.save(None, Stored({"_permanent": True}))
        peer, headers = await opened(app, cookie=f"own={permanent}")
        assert "; Max-Age=2678400; " in headers["set-cookie"]
        peer.disconnect()


class Timed(FlaskSessionStore):
    later = 0.0

    def now(self) -> float:
        return super().now() + self.later


async def test_keys_and_age() -> None:
    token = written(site()).partition("=")[2]
    rotated = written(site(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=[KEY])).partition("=")[2]
    store = Timed(["newer", KEY], max_age=100)
    for one in token, rotated:
        assert await store.load(one) is not None
    assert await FlaskSessionStore(KEY).load(rotated) is None
    assert await FlaskSessionStore(KEY, salt="other").load(token) is None
    store.later = 99
    assert await store.load(token) is not None
    store.later = 102
    assert await store.load(token) is None


def whole_seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
    | st.uuids()
    | st.datetimes(datetime(1970, 1, 2), datetime(2037, 1, 1), timezones=st.just(timezone.utc)).map(whole_seconds)
    | st.text(string.printable).map(FlaskMarkup),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from([" t", " di", " b", "a", "b__"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@pytest.mark.once
@given(values)
def test_tagged_json_is_that_of_flask(value: Any) -> None:
    theirs = TaggedJSONSerializer()
    with flask.Flask("site").app_context():
        assert theirs.loads(dump_tagged(value)) == value
        assert load_tagged(theirs.dumps(value)) == value


TAGS = [" t", " di", " b", " u", " d", " m"]
tagged = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.dictionaries(st.sampled_from(TAGS), inner, max_size=1) | st.lists(inner, max_size=2),
)


@pytest.mark.once
@pytest.mark.parametrize(
    "date", ["soon", "", None, 5, [], {}, "Mon, 666666666666630 Nov 2026 06:30:05 GMT", "1 Jan 2026"]
)
def test_a_date_that_is_none(date: Any) -> None:
    text = json.dumps({" d": date})
    with flask.Flask("site").app_context():
        try:
            theirs = TaggedJSONSerializer().loads(text)
        except (OverflowError, AttributeError):
            theirs = None
    assert load_tagged(text) == theirs


@pytest.mark.once
@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 -2359", "Fri, 31 Dec 9999 23:59:59 -0001"])
def test_a_date_that_utc_does_not_have_is_read_and_cannot_be_written(date: str) -> None:
    value = load_tagged(json.dumps({" d": date}))
    with pytest.raises(ValueError, match="out of range"):
        dump_tagged([value])


@pytest.mark.once
@given(tagged)
def test_any_tag_is_read_or_refused(value: Any) -> None:
    with suppress(ValueError):
        load_tagged(json.dumps(value))


# -- Flask-Session in Redis --------------------------------------------------------------------------------------------


@pytest.fixture(params=["msgpack", "json"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def redis_site(redis: Redis, format: str) -> Iterator[flask.Flask]:
    client = redis_py.Redis(port=redis.port)
    app = site(SESSION_TYPE="redis", SESSION_REDIS=client, SESSION_SERIALIZATION_FORMAT=format)
    flask_session.Session(app)
    yield app
    client.close()


@pytest.fixture
def page(redis: Redis, format: str) -> Iterator[flask.Flask]:
    yield from redis_site(redis, format)


@pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
async def test_flask_session_passes(check: SessionCheck, redis: Redis, format: str) -> None:
    await check(lambda: FlaskRedisStore(redis.url, format=format))


async def test_a_session_of_flask_session_is_read_and_written(redis: Redis, format: str, page: flask.Flask) -> None:
    app, _ = counting(FlaskRedisStore(redis.url, format=format))
    cookie = written(page)
    async with running(app):
        peer, headers = await opened(app, cookie=cookie)
        assert "set-cookie" not in headers
        changed = {**plain(), "_permanent": False, "handshakes": 1, "messages": 1}
        assert await told(peer, "save") == {**changed, "new": False}
        assert eval(read(page, cookie)) == changed
        redis.ask("DEL", "session:" + cookie.partition("=")[2])  # as when the user logs out
        assert (await told(peer, "save")).startswith("SessionEnded: ")
        assert await told(peer, "reload") == {"new": True}
        peer.disconnect()


async def test_a_session_that_begins_here_is_read_by_flask_session(redis: Redis, page: flask.Flask) -> None:
    async with open_stores(lambda: FlaskRedisStore(redis.url)) as (store,):
        token = await store.save(None, Stored({"name": "Zoë"}))
        assert read(page, f"session={token}") == "{'name': 'Zoë'}"
        life = int(redis.ask("TTL", f"session:{token}").removeprefix(":"))
        assert 31 * 24 * 3600 - GUARD <= life <= 31 * 24 * 3600
        await store.delete(token)
        with pytest.raises(SessionEnded):
            await store.save(token, Stored({}))


class Exploit:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("it was unpickled",)


PICKLES = [pickle.dumps({"a": 1}), pickle.dumps(Exploit())]


@pytest.mark.parametrize("value", [*PICKLES, b"", b"\xc1", b"[1]", b"\x81\x01\x02", b"[" * 5000], ids=ascii)
async def test_a_pickle_is_not_read(redis: Redis, value: bytes) -> None:
    token = "A" * 43
    with redis_py.Redis(port=redis.port) as client:
        client.set(f"session:{token}", value)
    async with open_stores(lambda: FlaskRedisStore(redis.url)) as (store,):
        with pytest.raises(SessionError, match="older ones write pickles"):
            await store.load(token)


async def test_mistakes(redis: Redis) -> None:
    with pytest.raises(ConfigurationError, match="format is 'msgpack' or 'json'"):
        FlaskRedisStore(redis.url, format="pickle")
    store: SessionStore = FlaskSessionStore(KEY)
    with pytest.raises(SessionError, match="cannot be saved as tagged JSON"):
        await store.save(None, Stored({"value": object()}))
