"""Any bytes are a session of PHP or refused, in a short text; what is read is as PHP would have written it."""

from __future__ import annotations

from typing import Any

from harness import fuzz, instrumented

with instrumented():
    from pywsapp.exceptions import SessionError
    from pywsapp.sessions.php_format import MAX_DEPTH, MAX_VALUES, parse_php_session

MAX_SIZE = 4096


def check(value: Any, depth: int = 0) -> int:
    """Check the types in a value, and return how many values it has."""
    assert depth <= MAX_DEPTH
    if isinstance(value, (list, dict)):
        if isinstance(value, dict):
            assert all(type(key) in (int, str) for key in value)
            assert list(value) != list(range(len(value))), "it would be a list"
        items = value.values() if isinstance(value, dict) else value
        return 1 + sum(check(item, depth + 1) for item in items)
    assert value is None or type(value) in (bool, int, float, str, bytes)
    return 1


def one_input(data: bytes) -> None:
    """Run one input: a byte that chooses the handler, and the data."""
    if not data:
        return
    handler = ("php", "php_serialize")[data[0] & 1]
    fault = ""
    found: dict[str, Any] = {}
    try:
        found = parse_php_session(data[1:], handler, max_size=MAX_SIZE)
    except SessionError as exc:
        fault = str(exc)
    assert len(fault) < 200, "the text is logged, so it must be short"
    assert all(isinstance(name, str) for name in found)
    assert sum(check(value) for value in found.values()) <= MAX_VALUES


def seeds() -> list[bytes]:
    values = [
        b"N;",
        b"b:1;",
        b"i:-5;",
        b"d:1.0E-25;",
        b"d:-INF;",
        b's:5:"a|b;}";',
        b'a:2:{i:0;a:1:{s:1:"k";N;}i:1;b:0;}',
        b'O:5:"Point":1:{s:4:"\0*\0y";a:1:{i:0;R:1;}}',
        b'C:3:"Old":4:{raw}}',
        b'E:11:"Suit:Hearts";',
        b"a:1:{i:0;" * 70 + b"N;" + b"}" * 70,
        b"a:999999999:{",
    ]
    plain = [b"\0user|" + value + b"last|N;" for value in values]
    return [*plain, *(b'\1a:2:{s:4:"user";' + value + b"i:7;N;}" for value in values)]


if __name__ == "__main__":
    fuzz(one_input, seeds())
