"""Invalid options raise at once, with a message that names the field."""

from __future__ import annotations

import dataclasses
import math
import zlib
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Deflate, Options, SlowConsumer

NUMBERS = [
    field.name for field in fields(Options) if field.name not in ("slow_consumer", "deflate", "cancel_on_disconnect")
]
WHOLE = [
    "max_message_size",
    "max_frame_size",
    "max_fragments",
    "max_header_size",
    "max_headers",
    "max_queue",
    "high_water",
    "max_outbox",
    "max_topics",
    "control_frames_burst",
    "max_histories",
    "max_history_bytes",
    "max_presence_bytes",
    "max_invalid_messages",
    "max_pending_calls",
    "max_call_queue",
    "max_pending_requests",
]
OPTIONAL = [
    "max_frame_size",
    "ping_interval",
    "handler_timeout",
    "min_http_rate",
    "max_connection_age",
    "idle_timeout",
    "max_invalid_messages",
]
MAY_BE_ZERO = ["drain_delay"]


def options(**values: Any) -> Options:
    return Options(**values)


def test_the_defaults() -> None:
    assert Options() == Options(
        max_message_size=1024 * 1024,
        max_frame_size=None,
        max_fragments=4096,
        max_header_size=16 * 1024,
        max_headers=100,
        handshake_timeout=10,
        min_http_rate=240,
        ping_interval=20,
        ping_timeout=20,
        close_timeout=5,
        message_timeout=30,
        max_queue=16,
        handler_timeout=None,
        cancel_on_disconnect=False,
        high_water=64 * 1024,
        max_outbox=1024 * 1024,
        slow_consumer=SlowConsumer.CLOSE,
        deflate=None,
        control_frames_per_second=50,
        control_frames_burst=100,
        drain_delay=0,
        drain_timeout=30,
        on_close_timeout=5,
    )
    assert Deflate() == Deflate(
        server_max_window_bits=12,
        client_max_window_bits=12,
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        level=6,
        mem_level=5,
        threshold=1024,
    )


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, "10", True, False, [], None])
def test_numbers_are_numbers_above_zero(name: str, value: Any) -> None:
    if value is None and name in OPTIONAL:
        assert getattr(options(**{name: None}), name) is None
        return
    if value == 0 and value is not False and name in MAY_BE_ZERO:
        assert getattr(options(**{name: 0}), name) == 0
        return
    least = "from 0 on" if name in MAY_BE_ZERO else "greater than 0"
    with pytest.raises(ConfigurationError, match=rf"^Options\.{name} must be .* {least}, not "):
        Options(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_sizes_are_whole_and_times_need_not_be(name: str) -> None:
    if name in WHOLE:
        with pytest.raises(ConfigurationError, match=rf"^Options\.{name} must be a whole number greater than 0, not "):
            options(**{name: 2_000_000.5})
    else:
        assert getattr(options(**{name: 0.5}), name) == 0.5
        assert getattr(options(**{name: math.inf}), name) == math.inf
    assert getattr(options(**{"high_water": 1, name: 1}), name) == 1


def test_the_outbox_holds_at_least_the_high_water() -> None:
    assert Options(high_water=1000, max_outbox=1000).max_outbox == 1000
    with pytest.raises(ConfigurationError, match="must not be smaller than"):
        Options(high_water=1001, max_outbox=1000)


@pytest.mark.parametrize("value", ["close", None, 1])
def test_slow_consumer_is_one_of_its_kind(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a SlowConsumer"):
        Options(slow_consumer=value)


@pytest.mark.parametrize("value", [True, False, 15, {}, Deflate])
def test_deflate_is_a_deflate_or_none(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a Deflate or None"):
        Options(deflate=value)


@pytest.mark.parametrize("value", ["isal", 1, True])
def test_a_compressor_is_a_function_or_none(value: Any) -> None:
    assert Deflate(compressor=zlib.compressobj).compressor is zlib.compressobj
    with pytest.raises(ConfigurationError, match=r"Deflate\.compressor must be a function or None, not "):
        Deflate(compressor=value)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("server_max_window_bits", 9, 15),
        ("client_max_window_bits", 9, 15),
        ("level", 0, 9),
        ("mem_level", 1, 9),
        ("threshold", 0, 1 << 40),
    ],
)
def test_ranges_of_deflate(name: str, low: int, high: int) -> None:
    for value in (low, high):
        assert getattr(Deflate(**{name: value}), name) == value  # type: ignore[arg-type]
    wrong: list[Any] = [low - 1, float(low), str(low), None, True]
    if name != "threshold":
        wrong.append(high + 1)
    for value in wrong:
        with pytest.raises(ConfigurationError, match=rf"^Deflate\.{name} must be "):
            Deflate(**{name: value})


@pytest.mark.parametrize("name", ["server_no_context_takeover", "client_no_context_takeover"])
@pytest.mark.parametrize("value", [0, 1, None, "no"])
def test_switches_of_deflate(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^Deflate\.{name} must be True or False"):
        Deflate(**{name: value})


def test_options_cannot_be_changed() -> None:
    for frozen, name in ((Options(), "max_queue"), (Deflate(), "level")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, name, 1)
    assert dataclasses.replace(Options(max_queue=3), max_headers=7) == Options(max_queue=3, max_headers=7)
    assert len({Options(), Options(), Options(max_queue=3)}) == 2


@given(st.sampled_from(NUMBERS), st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3))
def test_any_value_is_accepted_or_refused_by_name(name: str, value: Any) -> None:
    try:
        taken = options(**{"high_water": 1, name: value})
    except ConfigurationError:
        taken = None
    fits = value > 0 if isinstance(value, (int, float)) and not isinstance(value, bool) else False
    if name in WHOLE and isinstance(value, float):
        fits = False
    if name in MAY_BE_ZERO and type(value) in (int, float) and value == 0:
        fits = True
    if name == "high_water" and fits:
        fits = value <= Options().max_outbox
    if name in OPTIONAL and value is None:
        fits = True
    assert (taken is not None) == fits
    if taken is not None:
        assert getattr(taken, name) == value


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_cancel_on_disconnect_is_true_or_false(value: Any) -> None:
    assert options(cancel_on_disconnect=True).cancel_on_disconnect
    with pytest.raises(ConfigurationError, match=r"Options\.cancel_on_disconnect must be True or False"):
        options(cancel_on_disconnect=value)
