"""The pytest plugin of pywsapp: the fixtures `ws_client`, `sync_ws_client` and `app_server`.

They run the App of the fixture `app`, which a project writes itself. pytest imports this module at its start in every
project that has pywsapp installed. So it lies outside of the package and imports pywsapp only when a fixture is used.

`ws_client` and `app_server` are async: the anyio plugin runs them in tests with `@pytest.mark.anyio`, and
pytest-asyncio in its mode `auto`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pywsapp import App
    from pywsapp.testing import AppServer, SyncTestClient, TestClient


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark with the options of the clients."""
    config.addinivalue_line(
        "markers", "ws_client(**options): options of TestClient for the fixtures ws_client and sync_ws_client"
    )


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for mark in request.node.iter_markers("ws_client"):
        found = {**mark.kwargs, **found}
    return found


@pytest.fixture
async def ws_client(request: pytest.FixtureRequest, app: App) -> AsyncIterator[TestClient]:
    """Run the App of the fixture `app` in memory; return a `pywsapp.testing.TestClient`."""
    from pywsapp.testing import TestClient

    async with TestClient(app, **_options(request)) as client:
        yield client


@pytest.fixture
def sync_ws_client(request: pytest.FixtureRequest, app: App) -> Iterator[SyncTestClient]:
    """Run the App of the fixture `app` in memory; return a `SyncTestClient`, for tests without async."""
    from pywsapp.testing import SyncTestClient

    with SyncTestClient(app, **_options(request)) as client:
        yield client


@pytest.fixture
async def app_server(app: App) -> AsyncIterator[AppServer]:
    """Run the App of the fixture `app` on a free port; return a `pywsapp.testing.AppServer`, with its URLs."""
    from pywsapp.testing import AppServer

    async with AppServer(app) as server:
        yield server
