"""The guide from Ratchet, the quickstart and the page on logging: their programs run and do what the pages say."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.ratchet_peer import Closed, connected, opened, serving
from wsproto.events import Pong

from pywsapp import App, connect

ROOT = Path(__file__).parent.parent.parent
PAGES = ["from-ratchet.md", "index.md", "load-balancers.md", "logging.md"]
# As a module: the programs that serve would not end.
RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='docs')"


def programs(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def names_of(page: str, part: str) -> dict[str, Any]:
    """Run the one program with a certain part in it, on a free port, and give what it defines."""
    [text] = [text for text in programs(page) if part in text]
    text = text.replace("8080", "0").replace("App()", "App(port=0)")
    names: dict[str, Any] = {"__name__": "docs"}
    exec(compile(text, page, "exec"), names)
    return names


def app_of(page: str, part: str) -> App:
    app = names_of(page, part)["app"]
    assert isinstance(app, App)
    return app


@pytest.mark.parametrize(("page", "number"), [(page, n) for page in PAGES for n in range(len(programs(page)))])
def test_a_program_runs_as_it_stands(page: str, number: int, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(programs(page)[number], encoding="utf-8")
    command = [sys.executable, "-W", "error", "-c", RUN, str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.anyio
async def test_the_same_chat() -> None:
    app = app_of("from-ratchet.md", "class Chat")
    async with serving(app), opened(app, "/chat") as ana, opened(app, "/chat") as ben, opened(app, "/echo") as echo:
        await ana.send("hello")
        assert re.fullmatch(r"guest \d+: hello", str(await ben.hear()))
        await echo.send("hello")
        assert await echo.hear() == "hello"


@pytest.mark.anyio
async def test_async_and_threads() -> None:
    app = app_of("from-ratchet.md", "class Search")
    async with serving(app), opened(app, "/search") as ana, opened(app, "/search") as ben:
        await ana.send(json.dumps({"text": "tea"}))
        for peer in (ana, ben):
            assert json.loads(str(await peer.hear())) == {"answer": "TEA"}


@pytest.mark.anyio
async def test_without_the_facade() -> None:
    app = app_of("from-ratchet.md", "IpBlackList(inner")
    async with serving(app):
        for path in ("/", "/any/path", "/guarded/one", "/guarded/two"):
            async with connected(app) as peer:
                answer = await peer.shake(path, "Origin: https://any.example", host="any.example")
                assert answer.status == 101, path


@pytest.mark.anyio
async def test_a_decorator_of_your_own() -> None:
    app = app_of("from-ratchet.md", "class Json")
    async with serving(app), opened(app, "/sum") as peer:
        await peer.send("[1, 2, 3]")
        assert await peer.hear() == "6"


@pytest.mark.anyio
async def test_sessions() -> None:
    app = app_of("from-ratchet.md", "class Account")
    async with serving(app):
        async with opened(app, "/account", "Cookie: a=b; PHPSESSID=abc") as peer:
            assert await peer.hear() == "hello Ana"
        async with connected(app) as peer:
            assert (await peer.shake("/account", "Cookie: PHPSESSID=xyz")).status == 403


@pytest.mark.anyio
async def test_topics() -> None:
    names = names_of("from-ratchet.md", "class Topics")
    app = names["app"]
    async with serving(app), opened(app, "/topics") as ana, opened(app, "/topics") as ben:
        await ana.send(json.dumps(["subscribe", "tea"]))
        await ana.send(json.dumps(["publish", "tea", "not to myself"]))
        await ana.send(json.dumps(["publish", "unknown", "to nobody"]))
        await ana.ping(b"")
        assert isinstance(await ana.hear(), Pong)
        assert [(topic.name, len(topic)) for topic in app.topics.active()] == [("tea", 1)]
        await ben.send(json.dumps(["publish", "tea", "ready"]))
        assert json.loads(str(await ana.hear())) == ["tea", "ready"]
    assert app.topics.active() == []


@pytest.mark.anyio
async def test_a_test() -> None:
    await names_of("from-ratchet.md", "async def test_echo")["test_echo"]()


@pytest.mark.anyio
async def test_five_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    app = app_of("index.md", "class Rooms")
    visitor = names_of("index.md", "class Visitor")["Visitor"]()
    async with serving(app):
        async with connected(app) as peer:
            assert (await peer.shake("/rooms/tea")).status == 403
        async with opened(app, "/rooms/tea?name=Ben") as ben, anyio.create_task_group() as tasks:
            assert await ben.hear() == "Ben is here"
            tasks.start_soon(connect, visitor, f"ws://localhost:{app.port}/rooms/tea?name=Ana")
            assert await ben.hear() == "Ana is here"
            assert await ben.hear() == "Ana says hello"
            await ben.send("tea?")
            assert await ben.hear() == "Ben says tea?"
            app.stop()
            assert isinstance(await ben.hear(), Closed)
            await ben.close(1012)
    assert capsys.readouterr().out == "Ana is here\nAna says hello\nBen says tea?\n"


def test_the_index_lists_every_page() -> None:
    docs = ROOT / "docs"
    listed = set(re.findall(r"\]\(([^)#]+\.md)\)", (docs / "index.md").read_text(encoding="utf-8")))
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} - {"index.md"}
    assert pages - listed == set()


@pytest.mark.parametrize("page", ["from-ratchet.md", "index.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert links
    assert [link for link in links if not leads_somewhere(page, link)] == []


def leads_somewhere(page: str, link: str) -> bool:
    """Tell whether a relative link has its file and, behind the #, its heading."""
    name, _, anchor = link.partition("#")
    path = ROOT / "docs" / (name or page)
    if not path.exists() or not anchor:
        return path.exists()
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


# -- the lines of the log ----------------------------------------------------------------------------------------------


def formats() -> list[tuple[str, str]]:
    """Give level and text of every line that the source may log, as a pattern."""
    found = []
    for path in (ROOT / "src" / "pywsapp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="logger" | "_logger"), attr=level),
                    args=[ast.Constant(value=str(text)), *_],
                ):
                    pattern = re.sub(r"%[a-z]", ".+", re.escape(text))
                    found.append(({"exception": "ERROR"}.get(level, level.upper()), pattern))
                case ast.Call(func=ast.Attribute(attr="log"), args=[_, ast.Constant(value=str(text)), *_]):
                    found.append(("INFO", re.sub(r"%[a-z]", ".+", re.escape(text))))  # at debug level in a worker
    return found


def lines() -> list[tuple[str, str]]:
    """Give level and text of every line that the page on logging shows."""
    text = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
    return re.findall(r"^(DEBUG|INFO|WARNING|ERROR) +(.*)$", text, re.MULTILINE)


def test_every_shown_line_is_one_that_is_logged() -> None:
    assert len(lines()) > 10
    unknown = [
        line for line in lines() if not any(line[0] == level and re.fullmatch(p, line[1]) for level, p in formats())
    ]
    assert unknown == []


def test_every_warning_is_shown() -> None:
    hidden = [
        pattern
        for level, pattern in formats()
        if level == "WARNING" and not any(line[0] == level and re.fullmatch(pattern, line[1]) for line in lines())
    ]
    assert hidden == []


def test_there_is_one_logger() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "pywsapp").rglob("*.py"))
    used = set(re.findall(r"getLogger\(([^)]*)\)", source))
    assert used == {
        '"pywsapp"',
        "",
        "name",
    }  # and the root, to see whether anybody has set it up, and those of client libraries
