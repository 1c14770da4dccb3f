"""Any bytes are tagged JSON or refused; what is read can be written, is read again as the same, and as Flask reads it.

Flask's own reader, where it is installed, reads what we write, and has the same values.
"""

from __future__ import annotations

import importlib
import math
from datetime import datetime
from typing import Any
from uuid import UUID

from harness import fuzz, instrumented

with instrumented():
    from pywsapp.sessions.tagged_json import Markup, dump_tagged, load_tagged

try:
    FLASK: Any = importlib.import_module("flask.json.tag").TaggedJSONSerializer()
except ModuleNotFoundError:  # `make fuzz` needs no Flask
    FLASK = None

TYPES = (type(None), bool, int, float, str, bytes, tuple, list, dict, Markup, UUID, datetime)


def check_types(value: Any) -> None:
    assert type(value) in TYPES
    if isinstance(value, (list, tuple)):
        for item in value:
            check_types(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            assert type(key) is str
            check_types(item)
    elif isinstance(value, datetime):
        assert value.tzinfo is not None


def plain(value: Any) -> Any:
    """Return a value in which Flask's types and ours are the same."""
    if isinstance(value, dict):
        return {"dict": [(key, plain(item)) for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [plain(item) for item in value]
    if isinstance(value, str):
        return type(value).__name__, str.__str__(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime):
        return value.timestamp()  # Flask and we write UTC
    return type(value).__name__, value


def check_flask(text: str, value: Any) -> None:
    if FLASK is not None:
        assert plain(FLASK.loads(text)) == plain(value)


def load(data: bytes | str) -> Any:
    """Return a value in a tuple, and an empty tuple if it is refused."""
    try:
        return (load_tagged(data),)
    except (ValueError, RecursionError):
        return ()


def is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return all(map(is_finite, items))


def one_input(data: bytes) -> None:
    """Run one input: a text, which is also a value in a session."""
    found = load(data)
    if found:
        (value,) = found
        check_types(value)
        try:
            text = dump_tagged(value)
        except (ValueError, RecursionError):  # NaN is read, as Flask does, and not written; so are dates after 9999
            assert not is_finite(value) or b" d" in data or len(data) > 300
        else:
            assert text.isascii()
            assert plain(load(text)) == plain(found)
            check_flask(text, value)
    text = data.decode("latin-1")
    session: dict[str, Any] = {
        "text": text,
        "bytes": data,
        "both": (text, [data, {f" {text}": text}, {text: ()}, Markup(text)]),
    }
    for tag in (" t", " b", " d", " di", " m", " u", " t__"):
        session[tag] = {tag: text}
    written = dump_tagged(session)
    assert load(written) == (session,)
    check_flask(written, session)


def seeds() -> list[bytes]:
    return [
        b'{" t": [1, {" b": "AA=="}]}',
        b'{" d": "Mon, 30 Nov 2026 06:30:05 GMT"}',
        b'{" d": "Mon, 30 Nov 2026 06:30:05 -2359"}',
        b'{" d": "Mon, 666666666666630 Nov 2026 06:30:05 GMT"}',
        b'{" d": "Fri, 31 Dec 9999 23:59:59 -2359"}',
        b'{" u": "12345678123456781234567812345678"}',
        b'{" u": "{urn:uuid:12345678-1234-5678-1234-567812345678}"}',
        b'{" di": {" t__": 1}}',
        b'{" di": {}}',
        b'{" di": {"": 1}}',
        b'{" di": [["a__", 1]]}',
        b'{" m": 5}',
        b'{" m": "<b>"}',
        b'{" b": 5}',
        b'{" b": "A"}',
        b'{" t": "text"}',
        b'{" t": {"a": 1}}',
        b'[1.5, -0.0, NaN, Infinity, 1e999, "\\ud800", "\xc3\xa9", true, null]',
        b'{"a": ' + b'{" t": [' * 400 + b"]}" * 400 + b"}",
        b"[" * 3000,
        b'{" d": "Mon, 30 Nov 2026 06:30:05 GMT", "a": 1}',
    ]


if __name__ == "__main__":
    fuzz(one_input, seeds())
