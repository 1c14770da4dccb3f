"""Writing JSON with orjson; imported on demand."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.codecs.dumping import dumped
from pywsapp.codecs.kinds import is_struct

try:
    import orjson
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "orjson") from exc


def encoder(msgspec: ModuleType | None) -> Callable[[Any], bytes]:
    """Return a function that writes JSON.

    Args:
        msgspec: `pywsapp.codecs.with_msgspec`, for Structs; None if msgspec is not installed.
    """

    def plain(value: Any) -> Any:
        return msgspec.to_builtins(value) if msgspec is not None and is_struct(type(value)) else dumped(value)

    def encode(value: Any) -> bytes:
        return orjson.dumps(value, default=plain)

    return encode
