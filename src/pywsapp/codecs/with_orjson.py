"""Writing JSON with orjson; imported on demand."""

from __future__ import annotations

from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.codecs.dumping import dumped

try:
    import orjson
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "orjson") from exc


def encode(value: Any) -> bytes:
    """Return the JSON of a value."""
    return orjson.dumps(value, default=dumped)
