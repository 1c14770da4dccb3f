"""How late the event loop runs what is due: the time that handlers and other callbacks keep it busy."""

from __future__ import annotations

from time import perf_counter

import anyio

from pywsapp._histogram import Histogram

#: Seconds between two measurements.
INTERVAL = 0.25


async def measure_loop_lag(lags: Histogram) -> None:
    """Measure by how many seconds the event loop is late, again and again until cancelled."""
    while True:
        due = perf_counter() + INTERVAL
        await anyio.sleep(INTERVAL)
        lags.observe(max(0.0, perf_counter() - due))
