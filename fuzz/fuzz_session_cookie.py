"""Any cookie without a signature is an empty session; anything with a signature is a session, empty or refused.

A session that is read is saved and read again as the same. The stores are ours, and those of Django, Flask and
Starlette.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from harness import fuzz, instrumented

with instrumented():
    from pywsapp.exceptions import SessionError
    from pywsapp.http import Request
    from pywsapp.sessions.base import SessionStore, Stored
    from pywsapp.sessions.cookies import SessionCookie
    from pywsapp.sessions.django_cookie import DjangoCookieStore
    from pywsapp.sessions.flask import FlaskSessionStore
    from pywsapp.sessions.signed_cookie import SignedCookieStore
    from pywsapp.sessions.starlette import StarletteSessionStore
    from pywsapp.sessions.tagged_json import dump_tagged, load_tagged

T = TypeVar("T")
KEY = "a key of sixteen bytes"
STORES: list[SessionStore] = [
    SignedCookieStore(KEY),
    DjangoCookieStore(KEY),
    FlaskSessionStore(KEY),
    StarletteSessionStore(KEY),
]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the store waited")


def check_tagged(data: bytes) -> None:
    """Check that tagged JSON is read or refused, and that what is read can be written."""
    try:
        value = load_tagged(data)
    except (ValueError, RecursionError):
        return
    try:
        text = dump_tagged(value)
    except (ValueError, RecursionError):  # NaN is read, as Flask does, and not written
        return
    assert repr(load_tagged(text)) == repr(value)


def one_input(data: bytes) -> None:
    """Run one input: as a header field, as a token, and as tagged JSON."""
    text = data.decode("latin-1")
    value = SessionCookie().read(Request(headers=[("Cookie", f"session={text}")]))
    for token in (text, value or ""):
        for store in STORES:
            assert run(store.load(token)) is None, "a signature was guessed"
    check_tagged(data)
    session: dict[str, Any] = {"text": text, "list": [text[:3], {"deep": [None, 1.5, True]}]}
    for store in STORES:
        try:
            token = run(store.save(None, Stored(session, store.new_end())))
        except SessionError:
            continue
        found = run(store.load(token))
        assert found is not None
        assert found.data == session


def seeds() -> list[bytes]:
    found = [
        b"x",
        b'"quoted value"',
        b"a.b.c",
        b".eJw.aaaaaa.aaaa",
        b":1:a",
        b"=; session=second; __Host-session=x",
        b'{" t": [1, {" b": "AA=="}]}',
        b'{" d": "Mon, 30 Nov 2026 06:30:05 GMT"}',
        b'{" d": "Mon, 30 Nov 2026"}',
        b'{" d": "Mon, 666666666666630 Nov 2026 06:30:05 GMT"}',
        b'{" u": "12345678123456781234567812345678"}',
        b'{" di": {" t__": 1}}',
        b'{" di": {}}',
        b'{" m": 5}',
    ]
    return [*found, *(run(store.save(None, Stored({"a": 1}, store.new_end()))).encode()[:-2] for store in STORES)]


if __name__ == "__main__":
    fuzz(one_input, seeds())
