"""The reader of PHP's sessions: what PHP wrote, what a writer of this file writes, and hostile data."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.php_output import PHP, PHP_SERIALIZE, VARIABLES

from pywsapp.exceptions import SessionError
from pywsapp.sessions.php_format import MAX_DEPTH, MAX_VALUES, parse_php_session

HANDLERS = ["php", "php_serialize"]


# -- PHP's own output --------------------------------------------------------------------------------------------------


def test_what_php_wrote() -> None:
    found = parse_php_session(PHP)
    assert found == VARIABLES
    assert [type(value) for value in found.values()] == [type(value) for value in VARIABLES.values()]
    assert math.copysign(1, found["negzero"]) == -1
    assert parse_php_session(PHP_SERIALIZE, "php_serialize") == {**VARIABLES, "7": "numeric"}


@pytest.mark.parametrize(("data", "handler"), [(PHP, "php"), (PHP_SERIALIZE, "php_serialize")])
def test_a_part_of_what_php_wrote_is_refused(data: bytes, handler: str) -> None:
    for end in range(1, len(data)):
        try:
            found = parse_php_session(data[:end], handler)
        except SessionError:
            continue
        assert handler == "php", "an array has an end"
        assert found.items() <= VARIABLES.items(), "it ends after a variable"


def test_the_wrong_handler() -> None:
    with pytest.raises(SessionError, match="an array should be at byte 0: it is not of this serialize_handler"):
        parse_php_session(PHP, "php_serialize")
    with pytest.raises(SessionError, match="should be at byte"):
        parse_php_session(PHP_SERIALIZE, "php")


# -- a writer of our own -----------------------------------------------------------------------------------------------


def serialized(value: Any) -> bytes:
    """Serialize a value as PHP does."""
    if value is None:
        return b"N;"
    if isinstance(value, bool):
        return b"b:%d;" % value
    if isinstance(value, int):
        return b"i:%d;" % value
    if isinstance(value, float):
        text = repr(value).upper().removesuffix(".0")
        return f"d:{text};".encode()
    if isinstance(value, (str, bytes)):
        data = value.encode() if isinstance(value, str) else value
        return b's:%d:"%b";' % (len(data), data)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return b"a:%d:{%b}" % (len(value), b"".join(serialized(key) + serialized(item) for key, item in items))


def session(variables: dict[str, Any], handler: str) -> bytes:
    """Write a session as PHP does."""
    if handler == "php_serialize":
        return serialized(variables)
    return b"".join(name.encode() + b"|" + serialized(value) for name, value in variables.items())


def is_no_number(key: str) -> bool:
    """Return whether PHP keeps a key as a string; it makes integers of others."""
    return not (key.isascii() and key.removeprefix("-").isdigit())


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary().filter(lambda data: not is_text(data))
)
keys = st.integers(-(2**63), 2**63 - 1) | st.text().filter(is_no_number)
dicts = st.dictionaries(keys, scalars, max_size=4).filter(lambda found: list(found) != list(range(len(found))))
values = scalars | st.lists(scalars | st.lists(dicts, max_size=2), max_size=4) | dicts
names = st.text(min_size=1).filter(lambda name: "|" not in name)


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("handler", HANDLERS)
@given(st.dictionaries(names, values, max_size=4))
def test_what_is_written_is_read(handler: str, variables: dict[str, Any]) -> None:
    assert parse_php_session(session(variables, handler), handler, max_size=10**6) == variables


@pytest.mark.parametrize("handler", HANDLERS)
@given(st.dictionaries(names, values, min_size=1, max_size=3), st.data())
def test_a_changed_session_is_read_or_refused(handler: str, variables: dict[str, Any], data: st.DataObject) -> None:
    written = session(variables, handler)
    place = data.draw(st.integers(0, len(written) - 1))
    byte = data.draw(st.binary(max_size=2))
    try:
        found = parse_php_session(written[:place] + byte + written[place + 1 :], handler, max_size=10**6)
    except SessionError:
        return
    assert all(isinstance(name, str) for name in found)


@pytest.mark.parametrize("handler", HANDLERS)
@given(st.binary(max_size=200))
@example(b'a|s:99999999999:"x";')
@example(b'a|O:1:"A":1:{i:0;O:1:"A":0:{}}')
def test_any_bytes_are_read_or_refused(handler: str, data: bytes) -> None:
    fault = ""
    try:
        parse_php_session(data, handler)
    except SessionError as exc:
        fault = str(exc)
    assert len(fault) < 200, "the text is logged, so it must be short"


# -- bounds and hostile data -------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    return b"a:1:{i:0;" * depth + b"N;" + b"}" * depth


@pytest.mark.parametrize(
    "value",
    [
        nested(MAX_DEPTH + 1),
        b'O:1:"A":1:{i:0;' * 5000 + b"N;" + b"}" * 5000,
        b"a:4294967295:{i:0;N;}",
        b"a:%d:{}" % (MAX_VALUES + 1),
        serialized([None] * (MAX_VALUES // 2 + 1)),
        b's:5:"abc";',
        b's:9999999999:"abc";',
        b's:-1:"abc";',
        b's:3:"abcd";',
        b's:+3:"abc";',
        b's: 3:"abc";',
        b"i:;",
        b"i:1.5;",
        b"i:--1;",
        b"i:" + b"9" * 1000 + b";",
        b"d:1.2.3;",
        b"d:;",
        b"d:0x10;",
        b"d:nan;",
        b"d:" + b"9" * 1000 + b";",
        b"b:2;",
        b"b:;",
        b"n;",
        b"N",
        b"",
        b"a:1:{N;N;}",
        b"a:1:{d:1;N;}",
        b"a:1:{b:1;N;}",
        b"a:1:{a:0:{}N;}",
        b"a:1:{i:0;N;",
        b"a:0:{i:0;N;}",
        b"a:-1:{}",
        b'O:1:"A":x',
        b'O:9:"A":0:{}',
        b'C:1:"A":99:{x}',
        b'C:1:"A":1:{xx}',
        b'C:1:"A":1',
        b'E:3:"A:B"',
        b"R:x;",
        b"x:1;",
        b"\xff\xfe",
    ],
    ids=lambda value: ascii(value[:30]),
)
def test_a_value_that_is_refused(value: bytes) -> None:
    for data, handler in ((b"a|" + value, "php"), (b'a:1:{s:1:"a";' + value + b"}", "php_serialize")):
        with pytest.raises(SessionError):
            parse_php_session(data, handler, max_size=10**6)


def test_the_bounds_themselves() -> None:
    assert parse_php_session(b"a|" + nested(MAX_DEPTH)) != {}
    many = [None] * (MAX_VALUES // 2 - 1)
    assert parse_php_session(b"a|" + serialized(many), max_size=10**6) == {"a": many}
    with pytest.raises(SessionError, match="it has 11 bytes, and max_size is 10"):
        parse_php_session(b"abcd|i:123;", max_size=10)
    assert parse_php_session(b"abc|i:123;", max_size=10) == {"abc": 123}
    assert parse_php_session(b"") == parse_php_session(b"", "php_serialize") == {}


def test_time_grows_with_the_size_only() -> None:
    """A file can have max_size bytes of the costliest kinds."""
    for part in (b"a|N;", b'a|s:0:"";', b"a|" + b"a:1:{i:0;N;}", b'a|C:1:"A":0:{}', b"a|i:1;"):
        data = part * (4000 // len(part) * 10)
        began = time.process_time()
        parse_php_session(data, max_size=10**6)
        assert time.process_time() - began < 5


def test_the_last_one_of_equal_names_counts() -> None:
    assert parse_php_session(b'a|i:1;a|i:2;b|i:1;b|O:1:"A":0:{}') == {"a": 2}
    assert parse_php_session(b"a|a:2:{i:0;i:1;i:0;i:2;}") == {"a": [2]}


def test_names_need_not_be_text() -> None:
    assert parse_php_session(b"\xff|i:1;") == {"\udcff": 1}
    assert parse_php_session(b'a|a:1:{s:1:"\xff";i:1;}') == {"a": {"\udcff": 1}}
