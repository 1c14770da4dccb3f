"""How a webhook sends: `WebhookOptions`. Sizes are in bytes and times in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import Enum

from pywsapp.exceptions import ConfigurationError


class WhenFull(Enum):
    """Which event a webhook drops when too many events wait for the receiver."""

    DROP_OLDEST = "drop_oldest"  #: drop events that wait, oldest first
    DROP_NEWEST = "drop_newest"  #: drop the new event


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """How a webhook sends its requests, and what it keeps for a receiver that does not answer.

    Args:
        timeout: seconds that a request can take, from connecting to the end of the answer.
        base: seconds. The first pause after a failed attempt is between 0 and this, and the bound doubles with each
            further attempt.
        cap: seconds that the bound never exceeds.
        max_retry_after: seconds that a pause lasts at most because of a Retry-After field of the receiver.
        max_attempts: attempts to send a request. Afterwards its events are dropped.
        retry_seconds: seconds after the first attempt in which further attempts begin. Afterwards the events of the
            request are dropped.
        max_batch: events in one request.
        max_waiting: events that wait, those of the request that is being sent included.
        max_waiting_bytes: bytes of these events as JSON.
        when_full: which event is dropped at `max_waiting` and `max_waiting_bytes`; see `WhenFull`.
        flush_seconds: seconds in which the events that wait can still be sent when the App shuts down. Afterwards they
            are dropped. `Options.drain_timeout` limits it too.

    Raises:
        ConfigurationError: a value is out of range or of another type.
    """

    timeout: float = 10
    base: float = 0.5
    cap: float = 60
    max_retry_after: float = 300
    max_attempts: int = 100
    retry_seconds: float = 3600
    max_batch: int = 100
    max_waiting: int = 10_000
    max_waiting_bytes: int = 4 * 1024 * 1024
    when_full: WhenFull = WhenFull.DROP_OLDEST
    flush_seconds: float = 5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "when_full":
                if not isinstance(value, WhenFull):
                    raise ConfigurationError(f"WebhookOptions.when_full must be a WhenFull, not {value!r}")
                continue
            is_number = isinstance(value, int if field.type == "int" else (int, float))
            if not is_number or isinstance(value, bool) or not 0 < value < math.inf:
                kind = "whole number" if field.type == "int" else "number"
                raise ConfigurationError(f"WebhookOptions.{field.name} must be a {kind} greater than 0, not {value!r}")
        if self.cap < self.base:
            raise ConfigurationError("WebhookOptions.cap must not be smaller than WebhookOptions.base")
