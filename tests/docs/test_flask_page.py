"""docs/howto/add-real-time-to-a-flask-site.md: what a view of the site publishes reaches a page of the site."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.program import Program
from support.services import Redis, redis_server
from support.serving import GUARD

from pywsapp import HandshakeError, SyncConnection, connect_sync

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "add-real-time-to-a-flask-site.md"
PROGRAMS: list[str] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.once


def test_a_view_publishes() -> None:
    live, web = PROGRAMS
    with redis_server() as redis, Program(use(live, redis).replace("8081", "0")) as server:
        names: dict[str, Any] = {"__name__": "web"}
        exec(compile(use(web, redis), "web.py", "exec"), names)
        site, url = names["app"].test_client(), f"ws://localhost:{server.port}/news"
        assert "new WebSocket" in site.get("/").text
        with pytest.raises(HandshakeError, match="403"):
            connect_sync(url, origin="https://evil.example")
        with connect_sync(url, origin="http://localhost:5000") as page:
            assert published(site, page) == "hello"
        names["publisher"].close()
        assert "Traceback" not in server.output


def use(program: str, redis: Redis) -> str:
    return program.replace("redis://localhost", redis.url)


def published(site: Any, page: SyncConnection) -> str | bytes:
    """Publish by the view until the page gets it: at first the server may not have subscribed at Redis yet."""
    for _ in range(GUARD):
        assert site.post("/news", data={"text": "hello"}).status_code == 204
        with suppress(TimeoutError):
            return page.receive(timeout=1)
    raise AssertionError("nothing arrived")
