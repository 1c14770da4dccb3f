"""The histories of workers are in the supervisor: they are bounded by the options, and expire there."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD

from pywsapp import App, Options
from pywsapp._process import supervising
from pywsapp._process.worker_limits import WorkerLimits
from pywsapp.brokers.base import Keep
from pywsapp.brokers.local.router import BusRouter
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.history import memory_store

pytestmark = pytest.mark.anyio


async def test_the_supervisor_bounds_and_expires_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_store, "EXPIRE_SECONDS", 0.001)
    now = [0.0]
    found: list[BusRouter] = []

    async def supervise(
        listeners: Any, workers: int, announce: Any, end_seconds: float, limits: WorkerLimits, attach: Any, *others: Any
    ) -> bool:
        router: BusRouter = attach.__self__
        found.append(router)
        router.history._clock = lambda: now[0]
        for number in range(5):
            router.history.append(f"t:{number}", bytes(1000), Keep(("p", 1), 5, 300))
        now[0] = 300
        with anyio.fail_after(GUARD):
            while any(one.messages for one in router.history._topics.values()):
                await anyio.lowlevel.checkpoint()
        return True

    monkeypatch.setattr(supervising, "supervise", supervise)
    app = App(options=Options(max_histories=3, max_history_bytes=100_000))
    assert await app._runner._supervise(2, WorkerLimits())
    assert found[0].history.topics() == ["t:2", "t:3", "t:4"]


@pytest.mark.parametrize("exception", [ConfigurationError("in use"), SystemExit(1)])
async def test_what_the_supervisor_raises_is_not_wrapped(
    exception: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def supervise(*arguments: Any) -> bool:
        raise exception

    monkeypatch.setattr(supervising, "supervise", supervise)
    with pytest.raises(type(exception)) as info:
        await App()._runner._supervise(2, WorkerLimits())
    assert info.value is exception
