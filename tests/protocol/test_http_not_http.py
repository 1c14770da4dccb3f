"""Bytes that are not HTTP: the reason in the log says what came instead."""

from __future__ import annotations

import pytest

from pywsapp._protocol.http import HeadBuffer
from pywsapp.exceptions import Refuse


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01", "this is TLS, and the port serves plain HTTP"),
        (b"\x16\x04", "this is not HTTP"),
        (b"\x00\x01", "this is not HTTP"),
    ],
)
def test_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Refuse) as refused:
        HeadBuffer(1000).receive(data)
    assert (refused.value.status, refused.value.body) == (400, reason)
