"""Fixtures for the tests of the lifecycle and its handler task."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["callback", "task"])
def origin(request: pytest.FixtureRequest) -> str:
    """Where messages arrive: in no task, as from a transport of asyncio, or in the task of the test."""
    return str(request.param)
