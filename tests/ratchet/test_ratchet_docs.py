"""The guide for users of Ratchet and the page on logging: their programs run and do what the pages say."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.ratchet_peer import connected, opened, serving
from support.services import redis_server
from wsproto.events import Pong

from pywsapp import App

ROOT = Path(__file__).parent.parent.parent
GUIDE = "howto/migrate-from-ratchet.md"
LOGGING = "howto/log-and-debug.md"
ANY_LEVEL = "any"  # of a line whose level is a variable


def programs(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def names_of(page: str, part: str, redis: str = "") -> dict[str, Any]:
    """Run the one program that contains `part`, on a free port and with a Redis, and return its global names."""
    [text] = [text for text in programs(page) if part in text]
    text = text.replace("8080", "0").replace("App()", "App(port=0)").replace("redis://localhost", redis)
    names: dict[str, Any] = {"__name__": "docs"}
    exec(compile(text, page, "exec"), names)
    return names


def app_of(page: str, part: str, redis: str = "") -> App:
    app = names_of(page, part, redis)["app"]
    assert isinstance(app, App)
    return app


@pytest.mark.anyio
async def test_the_chat_of_the_guide_runs() -> None:
    app = app_of(GUIDE, "class Chat")
    async with serving(app), opened(app, "/chat") as ana, opened(app, "/chat") as ben, opened(app, "/echo") as echo:
        await ana.send("hello")
        assert re.fullmatch(r"guest \d+: hello", str(await ben.receive()))
        await echo.send("hello")
        assert await echo.receive() == "hello"


@pytest.mark.anyio
async def test_the_search_with_async_and_threads_runs() -> None:
    app = app_of(GUIDE, "class Search")
    async with serving(app), opened(app, "/search") as ana, opened(app, "/search") as ben:
        await ana.send(json.dumps({"text": "tea"}))
        for peer in (ana, ben):
            assert json.loads(str(await peer.receive())) == {"answer": "TEA"}


@pytest.mark.anyio
async def test_the_server_without_the_facade_runs() -> None:
    app = app_of(GUIDE, "IpBlackList(inner")
    async with serving(app):
        for path in ("/", "/any/path", "/guarded/one", "/guarded/two"):
            async with connected(app) as peer:
                answer = await peer.handshake(path, "Origin: https://any.example", host="any.example")
                assert answer.status == 101, path


@pytest.mark.anyio
async def test_the_middleware_of_the_guide_runs() -> None:
    app = app_of(GUIDE, "class Json")
    async with serving(app), opened(app, "/sum") as peer:
        await peer.send("[1, 2, 3]")
        assert await peer.receive() == "6"


@pytest.mark.anyio
async def test_the_sessions_of_the_guide_run() -> None:
    with redis_server() as redis:
        redis.ask("SET", f"PHPREDIS_SESSION:{'a' * 26}", 'user|s:3:"Ana";')
        app = app_of(GUIDE, "class Account", redis.url)
        async with serving(app):
            async with opened(app, "/account", f"Cookie: a=b; PHPSESSID={'a' * 26}") as peer:
                assert await peer.receive() == "hello Ana"
            async with connected(app) as peer:
                assert (await peer.handshake("/account", f"Cookie: PHPSESSID={'b' * 26}")).status == 403


@pytest.mark.anyio
async def test_the_topics_of_the_guide_run() -> None:
    names = names_of(GUIDE, "class Topics")
    app = names["app"]
    async with serving(app), opened(app, "/topics") as ana, opened(app, "/topics") as ben:
        await ana.send(json.dumps(["subscribe", "tea"]))
        await ana.send(json.dumps(["publish", "tea", "not to myself"]))
        await ana.send(json.dumps(["publish", "unknown", "to nobody"]))
        await ana.ping(b"")
        assert isinstance(await ana.receive(), Pong)
        assert [(topic.name, len(topic)) for topic in app.topics.active()] == [("tea", 1)]
        await ben.send(json.dumps(["publish", "tea", "ready"]))
        assert json.loads(str(await ana.receive())) == ["tea", "ready"]
    assert app.topics.active() == []


@pytest.mark.anyio
async def test_the_test_of_the_guide_passes() -> None:
    await names_of(GUIDE, "async def test_echo")["test_echo"]()


# -- the lines of the log ----------------------------------------------------------------------------------------------


def pattern_of(text: str) -> str:
    """Return a pattern for the lines of a format such as "%s: %.3f s"."""
    return re.sub(r"%(?:\\.|\d)*[a-z]", ".+", re.escape(text))


@cache
def formats() -> list[tuple[str, str]]:
    """Return the level of every line that the source can log, and a pattern for its text."""
    found = []
    for path in (ROOT / "src" / "pywsapp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="logger" | "_logger"), attr=level),
                    args=[ast.Constant(value=str(text)), *_],
                ):
                    found.append(({"exception": "ERROR"}.get(level, level.upper()), pattern_of(text)))
                case ast.Call(func=ast.Attribute(attr="_report"), args=[_, _, ast.Constant(value=str(text)), *_]):
                    found.append((ANY_LEVEL, pattern_of(text)))
                case ast.Call(func=ast.Attribute(attr="log"), args=[_, ast.Constant(value=str(text)), *_]):
                    found.append((ANY_LEVEL, pattern_of(text)))
    return found


def lines() -> list[tuple[str, str]]:
    """Return the level and the text of every line that the page on logging shows."""
    text = (ROOT / "docs" / LOGGING).read_text(encoding="utf-8")
    return re.findall(r"^(DEBUG|INFO|WARNING|ERROR) +(.*)$", text, re.MULTILINE)


def test_every_line_on_the_page_can_be_logged() -> None:
    assert len(lines()) > 10
    unknown = [
        line
        for line in lines()
        if not any(level in (line[0], ANY_LEVEL) and re.fullmatch(p, line[1]) for level, p in formats())
    ]
    assert unknown == []


def test_every_warning_is_on_the_page() -> None:
    hidden = [
        pattern
        for level, pattern in formats()
        if level == "WARNING" and not any(line[0] == level and re.fullmatch(pattern, line[1]) for line in lines())
    ]
    assert hidden == []


def test_the_source_uses_only_the_loggers_on_the_page() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "pywsapp").rglob("*.py"))
    used = set(re.findall(r"getLogger\(([^)]*)\)", source))
    # "" is the root logger, which shows whether logging is set up; `name` is the logger of a client library, and
    # `record.name` one whose handlers the status page asks for.
    assert used == {'"pywsapp"', '"pywsapp.access"', '"pywsapp.site"', '"uvicorn.error"', "", "name", "record.name"}
