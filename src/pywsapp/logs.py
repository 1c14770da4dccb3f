"""The log as JSON: one object for each line."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Set
from datetime import datetime, timezone
from itertools import islice
from typing import Any

__all__ = ["JsonFormatter"]

#: Characters of a value. Docker cuts lines at 16 KiB.
_MAX_TEXT = 2_000
_MAX_MESSAGE = 4_000
_MAX_EXCEPTION = 8_000
_MAX_ITEMS = 50  # of a value, and fields of a record
_MAX_DEPTH = 4
_MAX_BITS = 64  # of an integer; collectors store no larger one, and Python refuses to print very large ones
#: Attributes of each record that are no fields.
_ATTRIBUTES = {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"}
_OWN = ("timestamp", "level", "logger", "event", "message", "pid", "exception", "stack")


class JsonFormatter(logging.Formatter):
    """Write a log record as one line of JSON, whatever its values are.

    The object has `timestamp` (ISO 8601, UTC), `level`, `logger`, `event` (of the library's lines), `message`, `pid`,
    the fields of the record (`extra`), and `exception` and `stack` (text) if there are any. The line is ASCII. Long
    text, large collections and large integers are cut; values that JSON has not are written as their `repr`. A field
    with the name of one of these keys gets an underscore at its end. Formatting never raises.

    The first four arguments are those of `logging.Formatter`, so that `dictConfig` and `fileConfig` can make one. They
    have no effect.

    Args:
        defaults: fields of each line, such as `{"service": "chat"}`.
    """

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: str = "%",
        validate: bool = True,
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._defaults = dict(defaults or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break. Never blocks."""
        line = {
            "timestamp": _timestamp(record.created),
            "level": _plain(record.levelname),
            "logger": _plain(record.name),
        }
        fields = {name: value for name, value in vars(record).items() if name not in _ATTRIBUTES}
        if "event" in fields:
            line["event"] = _plain(fields.pop("event"))
        line["message"] = _cut(_message(record), _MAX_MESSAGE)
        line["pid"] = _plain(record.process)
        for name, value in [*self._defaults.items(), *islice(fields.items(), _MAX_ITEMS)]:
            line[_key(f"{name}_" if name in _OWN else name)] = _plain(value)
        if record.exc_info or record.exc_text:
            line["exception"] = _cut(self._exception(record), _MAX_EXCEPTION)
        if record.stack_info:
            line["stack"] = _cut(str(record.stack_info), _MAX_EXCEPTION)
        return json.dumps(line)

    def _exception(self, record: logging.LogRecord) -> str:
        if not record.exc_text and record.exc_info:
            try:
                record.exc_text = self.formatException(record.exc_info)  # other handlers use it too
            except Exception:  # of a method of the exception
                return _class_name(record.exc_info[1])
        return str(record.exc_text)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the arguments do not fit the text, or one of them has no text
        return f"{_shown(record.msg)} {_shown(record.args)}"


def _shown(value: Any) -> str:
    """Return the `repr` of a value, whatever its class does."""
    try:
        return repr(value)
    except Exception:
        return f"<{_class_name(value)} without repr>"


def _class_name(value: Any) -> str:
    return type(value).__name__


def _cut(text: str, limit: int) -> str:
    """Return a text without lone surrogates, and without its middle if it is too long."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-(limit // 2) :]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _key(name: Any) -> str:
    return _cut(name if type(name) is str else _shown(name), _MAX_TEXT)


def _plain(value: Any) -> Any:
    """Return a value that `json.dumps` can write, with bounds."""
    return _Bounded().plain(value, 0)


class _Bounded:
    """The items of one value, which are not more than `_MAX_ITEMS` in all, however it is nested."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _MAX_ITEMS

    def plain(self, value: Any, depth: int) -> Any:
        """Return a value for JSON, at a depth of the whole one."""
        kind = type(value)
        if value is None or kind is bool or (kind is float and math.isfinite(value)):
            return value
        if kind is str:
            return _cut(value, _MAX_TEXT)
        try:
            if isinstance(value, int):
                return int(value) if value.bit_length() <= _MAX_BITS else _cut(hex(value), _MAX_TEXT)
            if isinstance(value, (bytes, bytearray)):
                return _cut(repr(value[:_MAX_TEXT]), _MAX_TEXT)
            if isinstance(value, (Mapping, list, tuple, Set)):
                return self._items(value, depth + 1) if depth < _MAX_DEPTH else f"<{_class_name(value)}>"
        except Exception:  # of a method of the value
            return f"<{_class_name(value)} without items>"
        return _cut(_shown(value), _MAX_TEXT)

    def _items(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            return {_key(name): self.plain(item, depth) for name, item in self._bounded(value.items())}
        return [self.plain(item, depth) for item in self._bounded(value)]

    def _bounded(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if not self._left:
                return
            self._left -= 1
            yield item
