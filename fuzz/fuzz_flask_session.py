"""Any value in Redis is a session of Flask-Session or refused, in little memory; what is read can be saved again.

The value has a bound, but it can claim to contain more than it does, and can be nested to any depth.
"""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import msgspec
from harness import check_text, fuzz, instrumented, result_of

with instrumented():
    from pywsapp.exceptions import SessionError
    from pywsapp.sessions.base import Stored
    from pywsapp.sessions.flask_session import FlaskRedisStore

TOKEN = "t" * 43
MAX_SIZE = 4096
#: Bytes of memory for each byte of a session. A MessagePack of empty maps needs 64.
MAX_GROWTH = 200
MAX_TEXT = 500


class Redis:
    """A Redis server with one value; it answers at once."""

    name = "Redis"

    def __init__(self, value: bytes | None) -> None:
        self.value = value

    async def execute(self, command: tuple[Any, ...]) -> tuple[Any]:
        if command[0] == "SET":
            self.value = command[2]
            return ("OK",)
        return (self.value,)


STORES = {form: FlaskRedisStore("redis://localhost", format=form, max_size=MAX_SIZE) for form in ("msgpack", "json")}


def load(value: bytes, form: str) -> dict[str, Any] | None:
    STORES[form]._client = Redis(value)  # type: ignore[assignment]
    try:
        stored = result_of(STORES[form].load(TOKEN))
    except SessionError as exc:
        check_text(exc, MAX_TEXT)
        return None
    assert stored is not None
    return stored.data


def shown(value: Any) -> str:
    """Return a text of a value that is the same for the same values; NaN is not equal to itself."""
    return re.sub("object at 0x[0-9a-f]+", "object", repr(value))  # an Ext of MessagePack


def one_input(data: bytes) -> None:
    """Run one input: a byte that chooses the format, and the value."""
    if not data:
        return
    form, value = ("msgpack", "json")[data[0] & 1], data[1:]
    tracemalloc.start()
    try:
        found = load(value, form)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000 + MAX_GROWTH * len(value), "a claimed length is believed"
    if found is None:
        return
    assert all(type(name) is str for name in found)
    redis = Redis(None)
    try:
        STORES[form]._client = redis  # type: ignore[assignment]
        result_of(STORES[form].save(TOKEN, Stored(found)))
    except SessionError as exc:
        check_text(exc, MAX_TEXT)
        return
    assert redis.value is not None
    if form == "msgpack" or value.lstrip().startswith(b"{"):  # JSON has no bytes, which MessagePack has
        assert shown(load(redis.value, form)) == shown(found)


def seeds() -> list[bytes]:
    session = {"_permanent": True, "user": "ana", "n": [1, -1, 2.5, None, b"\xff", "é"], "deep": {"a": {"b": {}}}}
    values = [
        msgspec.msgpack.encode(session),
        b"\x81\xa1a" + b"\x91" * 3000 + b"\x90",
        b"\x81\xa1a" * 1200 + b"\x80",
        b"\xdd\x00\xff\xff\xff",
        b"\x81\xa1a\xdd\x7f\xff\xff\xff\xc0",
        b"\x81\xa1a\xdf\x7f\xff\xff\xff\xa1b\xc0",
        b"\x81\xa1a\xc6\xff\xff\xff\xffx",
        b"\x81\xa1a\xdb\xff\xff\xff\xffx",
        b"\x81\xa1a\xc9\xff\xff\xff\xff\x01x",
        b"\x81\xa1a\xd6\xff\xff\xff\xff\xff",
        b"\x81\x01\x02",
        b"\x81\x91\x01\x02",
        b'{"a": [1, {"b": null}], "c": "\\ud800"}',
        b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"a": 1e999, "b": ' + b"9" * 400 + b"}",
        b"\x80\x04\x95pickle.",
        b"",
        b"\xa0" * 5000,
    ]
    return [bytes((choice,)) + value for choice in (0, 1) for value in values]


if __name__ == "__main__":
    fuzz(one_input, seeds())
