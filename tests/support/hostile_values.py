"""Values that no function expects: wrong types, extreme numbers, odd subclasses, and objects whose methods do harm."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

from pywsapp._outbox.awaitables import ALREADY_DONE

random_number = random.Random(1)


class HostileError(Exception):
    """An error of hostile code."""


class HostileExit(BaseException):
    """An error of hostile code that `except Exception` does not catch."""


class Trap:
    """An object whose every method uses the object under test, and then raises, or returns something odd.

    Args:
        act: uses the object under test.
        value: what methods return.
    """

    def __init__(self, act: Callable[[], None], value: Any = None) -> None:
        self._act = act
        self._value = value

    def _spring(self, *args: Any, **options: Any) -> Any:
        self._act()
        number = random_number.randrange(8)
        if number == 0:
            raise HostileError
        if number == 1:
            raise HostileExit
        return self._value if number < 5 else self if number < 7 else None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._spring

    def __index__(self) -> int:
        value = self._spring()
        return value if isinstance(value, int) else "no number"  # type: ignore[return-value]

    def __del__(self) -> None:
        with contextlib.suppress(HostileError, HostileExit):
            self._act()

    def __hash__(self) -> int:
        self._act()
        return 1

    def __iter__(self) -> Any:
        self._act()
        return iter([self._value, self])

    __call__ = __len__ = __eq__ = __bool__ = __float__ = __getitem__ = __enter__ = __await__ = _spring
    __buffer__ = __lt__ = __add__ = __radd__ = __contains__ = __next__ = __exit__ = _spring


def overridden(base: type, act: Callable[[], None], value: Any) -> Any:
    """Return an instance of a subclass of a built-in type whose methods are those of a trap."""

    def spring(self: Any, *args: Any) -> Any:
        act()
        return random_number.choice([-1, 1 << 40, None, b"", self])

    names = ("__len__", "__getitem__", "__iter__", "__index__", "__buffer__", "__eq__", "encode", "decode", "append")
    return type("Hostile", (base,), {"__hash__": lambda self: 1, **dict.fromkeys(names, spring)})(value)


def released() -> memoryview:
    view = memoryview(bytearray(8))
    view.release()
    return view


FRAMES = (
    b"\x81\x80\0\0\0\0",
    b"\x81\x85\x01\x02\x03\x04hello",
    b"\x82\xfe\x00\x80\x01\x02\x03\x04" + bytes(128),
    b"\x82\xff" + (70_000).to_bytes(8, "big") + b"\1\2\3\4part",
    b"\x01\x81\0\0\0\0a\x00\x81\0\0\0\0b\x80\x80\0\0\0\0",
    b"\x89\x81\0\0\0\0p\x8a\x80\0\0\0\0",
    b"\x88\x82\0\0\0\0\x03\xe8",
    b"\x88\x80\0\0\0\0" * 3,
    b"\xc1\x85\0\0\0\0\xcaH\xcd\xc9\xc9\xc1\x80\0\0\0\0",
    b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xf3\x05\x00",
)
PLAIN: tuple[Callable[[], Any], ...] = (
    *(lambda number=number: number for number in (0, 1, -1, 4, 125, 126, 65535, 65536, 1 << 31, -(1 << 31))),
    *(lambda number=number: number for number in ((1 << 62), (1 << 63) - 1, -(1 << 63), 1 << 63, 1 << 64, -(1 << 200))),
    *(lambda text=text: text for text in ("", "x", "é" * 700, "\ud800", "a" * 70_000, "pong")),
    *(lambda data=data: data for data in (b"", b"x", b"\1\2\3\4", bytes(600), bytes(70_000), *FRAMES)),
    *(lambda value=value: value for value in (None, True, False, 1.5, float("nan"), float("inf"), 1e308)),
    lambda: bytearray(b"12345678"),
    lambda: memoryview(b"12345678")[::2],
    lambda: memoryview(b"12345678").cast("I"),
    released,
    lambda: [None, 1, "x", b"x"],
    lambda: (b"head", b"payload"),
    lambda: ((b"head", b"payload"), (None, 5)),
    dict,
    object,
    frozenset,
    lambda: int,
    lambda: iter(()),
    lambda: ALREADY_DONE,
)


#: Values that each parameter gets in turn, while the others have values that fit.
EDGES: tuple[Callable[[], Any], ...] = (
    *(lambda value=value: value for value in (None, -1, 1 << 62, (1 << 63) - 1, -(1 << 63), 1 << 200, 1.5, "", b"")),
    released,
    object,
)
