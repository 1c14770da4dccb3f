"""The browser client as `App.route_client` serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.wire import running

import pywsapp
from pywsapp import App, ConfigurationError
from pywsapp.testing import TestClient

pytestmark = pytest.mark.anyio

FILES = Path(pywsapp.__file__).parent / "browser"


def refuse(request: Any) -> None:
    """A guard that lets no user in."""


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("pywsapp.js", "text/javascript; charset=utf-8"),
        ("pywsapp-react.js", "text/javascript; charset=utf-8"),
        ("pywsapp.d.ts", "text/plain; charset=utf-8"),
    ],
)
async def test_the_files_of_the_client(name: str, content_type: str) -> None:
    app = App("localhost", authenticate=refuse)
    app.route_client("/static/pywsapp.js")
    async with TestClient(app) as client:
        answer = await client.get(f"/static/{name}")
        assert (answer.status, answer.body) == (200, (FILES / name).read_bytes())
        assert answer.headers["content-type"] == content_type
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        tag = answer.headers["etag"]
        for field in (tag, f'"other", W/{tag}', "*"):
            again = await client.get(f"/static/{name}", headers={"If-None-Match": field})
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert (await client.get(f"/static/{name}", headers={"If-None-Match": '"other"'})).status == 200


async def test_the_log_names_the_routes_after_the_method(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pywsapp")
    app = App("localhost", 0, authenticate=refuse)
    app.http("/page", refuse)
    app.route_client()
    async with running(app):
        assert "GET HEAD /pywsapp.js (route_client)" in caplog.text


async def test_other_files_of_the_directory_are_not_served() -> None:
    app = App("localhost")
    app.route_client()
    async with TestClient(app) as client:
        assert (await client.get("/pywsapp.js")).status == 200
        assert (await client.get("/package.json")).status == 404


@pytest.mark.parametrize("path", ["/client.js", "pywsapp.js", "/{name}/pywsapp.js", "/pywsapp.js/"])
async def test_a_path_with_another_name_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"pywsapp\.js"):
        App("localhost").route_client(path)


async def test_the_path_is_routed_once() -> None:
    app = App("localhost")
    app.route_client()
    with pytest.raises(ConfigurationError):
        app.route_client()
