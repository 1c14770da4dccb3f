"""A reader of PHP's session data: the handlers `php` and `php_serialize`, without objects.

With the handler `php`, the data is a list of variables, `name|value`, one after the other; with `php_serialize` it is
one serialized array. A serialized value is one of

    N;                   null               s:5:"bytes";              string, its length in bytes
    b:1;                 bool               a:1:{key value ...}       array; keys are i: or s:
    i:-5;                int                O:4:"Name":1:{...}        object, also C: and E:
    d:0.5;               float              r:2;  R:2;                reference

Nothing is executed and no class is looked up. A variable that contains an object or a reference is left out, because
only PHP knows what it is. A string is a `str` if it is UTF-8, and `bytes` otherwise. An array with the keys 0, 1, 2 and
so on is a list, any other one is a dict.

The bytes, the depth and the number of values are bounded, and each byte is read once.
"""

from __future__ import annotations

import re
from typing import Any

from pywsapp.exceptions import SessionError

#: Values in values.
MAX_DEPTH = 64
#: Values in one session, keys included.
MAX_VALUES = 20_000

_SCALAR = re.compile(rb"N;|b:([01]);|i:(-?[0-9]{1,20});|d:(-?(?:[0-9][0-9.]{0,400}(?:[eE][+-]?[0-9]{1,4})?|INF)|NAN);")
_STRING = re.compile(rb's:([0-9]{1,10}):"')
_ARRAY = re.compile(rb"a:([0-9]{1,10}):\{")
_OBJECT = re.compile(rb'O:([0-9]{1,10}):"')
_CUSTOM = re.compile(rb'C:([0-9]{1,10}):"')
_ENUM = re.compile(rb'E:([0-9]{1,10}):"')
_REFERENCE = re.compile(rb"[rR]:[0-9]{1,10};")
_SIZE = re.compile(rb":([0-9]{1,10}):\{")


def parse_php_session(data: bytes, handler: str = "php", *, max_size: int = 64 * 1024) -> dict[str, Any]:
    """Parse the data of a session.

    Args:
        data: the content of the file, or the value in Redis.
        handler: PHP's `session.serialize_handler`, "php" or "php_serialize".
        max_size: the bytes that the data may have.

    Returns:
        the variables by their names, without those that contain an object or a reference.

    Raises:
        SessionError: the data has another format, or exceeds a bound.
    """
    if len(data) > max_size:
        raise SessionError(f"it has {len(data)} bytes, and max_size is {max_size}")
    if not data:
        return {}
    reader = _Reader(data)
    return reader.variables() if handler == "php" else reader.variables_in_array()


class _Reader:
    """Reads values from the front of the data."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0
        self._values = 0
        self._has_object = False

    def variables(self) -> dict[str, Any]:
        """Read the format of the handler `php`."""
        found: dict[str, Any] = {}
        while self._place < len(self._data):
            end = self._data.find(b"|", self._place)
            if end < 0:
                raise self._fault("the name of a variable, with a | behind it,")
            name = _text(self._data[self._place : end])
            self._place = end + 1
            self._add(found, name)
        return found

    def variables_in_array(self) -> dict[str, Any]:
        """Read the format of the handler `php_serialize`."""
        match = self._match(_ARRAY)
        if match is None:
            raise self._fault("an array")
        found: dict[str, Any] = {}
        for _ in range(self._count(match[1])):
            self._add(found, str(self._key()))
        self._expect(b"}")
        if self._place != len(self._data):
            raise self._fault("the end")
        return found

    def _add(self, found: dict[str, Any], name: str) -> None:
        self._has_object = False
        value = self._value(0)
        if self._has_object:
            found.pop(name, None)
        else:
            found[name] = value

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise SessionError(f"its values are nested more than {MAX_DEPTH} times")
        self._values += 1
        if self._values > MAX_VALUES:
            raise SessionError(f"it has more than {MAX_VALUES} values")
        if (match := self._match(_SCALAR)) is not None:
            return _scalar(match)
        if (match := self._match(_STRING)) is not None:
            return _text_or_bytes(self._quoted(match[1], b'";'))
        if (match := self._match(_ARRAY)) is not None:
            return self._items(self._count(match[1]), depth)
        self._skip_object(depth)
        return None

    def _items(self, count: int, depth: int) -> Any:
        items: dict[Any, Any] = {}
        for _ in range(count):
            key = self._key()
            items[key] = self._value(depth + 1)
        self._expect(b"}")
        return list(items.values()) if all(map(_is_same, items, range(len(items)))) else items

    def _key(self) -> int | str:
        self._values += 1
        if (match := self._match(_STRING)) is not None:
            return _text(self._quoted(match[1], b'";'))
        match = self._match(_SCALAR)
        if match is None or match[2] is None:
            raise self._fault("the key of an array")
        return int(match[2])

    def _skip_object(self, depth: int) -> None:
        """Read an object or a reference, whose variable is left out."""
        self._has_object = True
        if self._match(_REFERENCE) is not None:
            return
        if (match := self._match(_ENUM)) is not None:
            self._quoted(match[1], b'";')
        elif (match := self._match(_CUSTOM)) is not None:
            self._quoted(match[1], b'"')
            size = self._match(_SIZE)
            if size is None:
                raise self._fault("the size of an object")
            self._place += int(size[1])
            self._expect(b"}")
        elif (match := self._match(_OBJECT)) is not None:
            self._quoted(match[1], b'"')
            size = self._match(_SIZE)
            if size is None:
                raise self._fault("the properties of an object")
            self._items(self._count(size[1]), depth)
        else:
            raise self._fault("a value")

    def _quoted(self, size: bytes, end: bytes) -> bytes:
        start = self._place
        self._place += int(size)
        if self._place > len(self._data):
            raise SessionError("it ends within a string")
        text = self._data[start : self._place]
        self._expect(end)
        return text

    def _count(self, digits: bytes) -> int:
        count = int(digits)
        if count > MAX_VALUES:
            raise SessionError(f"it has more than {MAX_VALUES} values")
        return count

    def _match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        match = pattern.match(self._data, self._place)
        if match is not None:
            self._place = match.end()
        return match

    def _expect(self, text: bytes) -> None:
        if not self._data.startswith(text, self._place):
            raise self._fault(repr(text.decode()))
        self._place += len(text)

    def _fault(self, what: str) -> SessionError:
        """Return the exception for something else than expected; it contains no data."""
        return SessionError(f"{what} should be at byte {self._place}: it is not of this serialize_handler")


def _scalar(match: re.Match[bytes]) -> Any:
    truth, integer, number = match.groups()
    if truth is not None:
        return truth == b"1"
    if integer is not None:
        return int(integer)
    if number is None:
        return None
    try:
        return float(number)
    except ValueError:
        raise SessionError("it has a number with two points") from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _is_same(key: object, number: int) -> bool:
    return type(key) is int and key == number
