"""Decompression bombs: small payloads that become large."""

from __future__ import annotations

from attack.floods import flood
from attack.link import Attack
from attack.wire import BINARY, COMPRESSED, compressed, cut, frame

_MIB = 1 << 20
_WITHIN = compressed(bytes(1_000_000))  # just below the limit of all three servers, 1 kB on the wire
_BEYOND = compressed(bytes(64 * _MIB))  # 65 kB on the wire
_BOMB = frame(BINARY, _WITHIN, rsv=COMPRESSED)
_LARGE_BOMB = frame(BINARY, _BEYOND, rsv=COMPRESSED)
_CUT_BOMB = cut(_WITHIN, 10, rsv=COMPRESSED)
_CUT_LARGE_BOMB = cut(_BEYOND, 100, rsv=COMPRESSED)
#: Seconds. To inflate 1 MB takes a millisecond or two, and 500 connections do it in the same turn of the event loop.
_LATENCY = 3
_SERVED = frozenset({"101"})
_REFUSED = frozenset({"101", "close 1009"})

ATTACKS = [
    Attack("bombs", 10, flood("/slow", _BOMB), "messages that inflate from 1 kB to 1 MB", _SERVED),
    Attack("large-bombs", 10, flood("/slow", _LARGE_BOMB), "messages that inflate from 65 kB to 64 MiB", _REFUSED),
    Attack("bombs-in-fragments", 10, flood("/slow", _CUT_BOMB), "1 kB to 1 MB, in fragments of 10 bytes", _SERVED),
    Attack(
        "large-bombs-in-fragments",
        10,
        flood("/slow", _CUT_LARGE_BOMB),
        "65 kB to 64 MiB, in fragments of 100 bytes",
        _REFUSED,
    ),
    Attack(
        "bombs-500",
        500,
        flood("/slow", _BOMB),
        "1 kB to 1 MB, on 500 connections at once",
        _SERVED,
        server=("--max-connections", "1000"),
        memory=500 * 4 * _MIB,  # the sum of SECURITY.md: an unfinished message, those that wait, and the outbox
        latency=_LATENCY,
    ),
    Attack(
        "large-bombs-500",
        500,
        flood("/slow", _LARGE_BOMB),
        "65 kB to 64 MiB, on 500 connections at once",
        _REFUSED,
        server=("--max-connections", "2000"),
        memory=500 * 4 * _MIB,
        latency=_LATENCY,
    ),
]
