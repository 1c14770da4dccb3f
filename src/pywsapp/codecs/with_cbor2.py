"""Reading and writing CBOR with cbor2; imported on demand."""

from __future__ import annotations

from io import BytesIO
from typing import Any, NoReturn

from pywsapp._extras import missing_extra
from pywsapp.codecs.dumping import dumped
from pywsapp.exceptions import InvalidMessage

try:
    import cbor2
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "cbor") from exc

#: Deeper containers are refused; the default of cbor2.
_MAX_DEPTH = 400
#: Tags that make objects of large numbers, shared and cyclic values, regular expressions, MIME messages, addresses,
#: sets and others: they cost more than they show, or have no form in the other codecs.
_REFUSED = (2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 52, 54, 256, 258, 260, 261, 43000)


def _refuse(*_: Any) -> NoReturn:
    raise InvalidMessage("a tag is not accepted")


_decoders = dict.fromkeys(_REFUSED, _refuse)


def decode(message: str | bytes) -> Any:
    """Return what CBOR holds."""
    if not isinstance(message, bytes):
        raise InvalidMessage("a binary message was expected")
    file = BytesIO(message)
    try:
        value = cbor2.CBORDecoder(file, tag_hook=_refuse, semantic_decoders=_decoders, max_depth=_MAX_DEPTH).decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as exc:
        if isinstance(exc.__cause__, InvalidMessage):
            raise exc.__cause__ from None
        raise InvalidMessage("the message is no valid CBOR") from None
    if file.tell() != len(message):
        raise InvalidMessage("bytes follow the value")
    return value


def encode(value: Any) -> bytes:
    """Return the CBOR of a value."""
    return cbor2.dumps(value, default=_default)


def _default(encoder: Any, value: Any) -> None:
    encoder.encode(dumped(value))
