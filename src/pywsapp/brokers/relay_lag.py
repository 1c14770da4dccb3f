"""For how long messages wait for a broker, measured without giving any message a time."""

from __future__ import annotations

import anyio

from pywsapp.brokers.relay import Relay

#: Seconds between two measurements.
STEP = 0.25


async def measure_lag(relay: Relay) -> None:
    """Measure for how long the oldest message of a relay waits, again and again until cancelled."""
    oldest = None
    while True:
        await anyio.sleep(STEP)
        before, oldest = oldest, relay.oldest()
        relay.lag = relay.lag + STEP if oldest is not None and oldest is before else 0.0
