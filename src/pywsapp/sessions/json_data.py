"""The data of a session as JSON: encoded with a bound, and decoded strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pywsapp.exceptions import SessionError


def encode_data(data: Mapping[str, Any], max_size: int, *, ascii_only: bool = False) -> bytes:
    """Encode the data of a session.

    Args:
        data: the data.
        max_size: the bytes that the result may have.
        ascii_only: whether other characters are escaped.

    Raises:
        SessionError: the data has values that JSON cannot express, or is too large.
    """
    try:
        text = json.dumps(data, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"))
        encoded = text.encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise SessionError(f"the session cannot be saved as JSON: {exc}") from exc
    check_size(encoded, max_size)
    return encoded


def check_size(encoded: bytes, max_size: int) -> None:
    """Check the size of an encoded session.

    Raises:
        SessionError: it is too large.
    """
    if len(encoded) > max_size:
        raise SessionError(
            f"the session has {len(encoded)} bytes, and max_size of its store is {max_size}: keep less in it"
        )


def decode_object(encoded: bytes | str) -> dict[str, Any]:
    """Decode a JSON object.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        value = json.loads(encoded, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
