"""Every code block of README.md and docs/ runs, and the first programs that users copy do what their pages say.

A block is a whole program unless an HTML comment before it says why it is not: <!-- fragment: the reason -->. The
blocks of a page in `SITES` are files of one directory, which test_sites.py runs. So are those of a page in
`MOUNTED_SITES` that begin with the name of a file; test_mounted_sites.py runs them. Those after <!-- file: a name -->
are files of a project that test_test_page.py or test_tutorial.py runs.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest
import trustme
from support.program import Program
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from pywsapp import App

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"(?:^<!-- fragment(?P<reason>.*?)-->\n|^<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
pytestmark = pytest.mark.once
SITES = {f"authenticate-users-of-{name}.md" for name in ("django", "fastapi", "flask")}
MOUNTED_SITES = {f"add-real-time-to-a-{name}-site.md" for name in ("django", "fastapi", "flask")}
#: A fragment does not run, so it can be wrong. Allow more of them only for a good reason.
MAX_FRAGMENTS = 6
#: The reason of a fragment that shows what to replace.
OTHER_LIBRARY = ": the code of another library "
#: Runs each of the files as a module, so that a program that serves ends.
SITE = """SECRET_KEY = "secret"
INSTALLED_APPS = ["django.contrib.sessions"]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
"""
RUN = "import runpy, sys; [runpy.run_path(path, run_name='docs') for path in sys.argv[1:]]"
WAIT_SECONDS = 20
Run = Callable[[str], Program]


class Block(NamedTuple):
    """A code block.

    Args:
        page: its file.
        line: the line of the file that it begins on.
        text: the code.
        reason: why it is a fragment; None for a whole program.
        file: its name in a project that another test runs; None for others.
    """

    page: Path
    line: int
    text: str
    reason: str | None
    file: str | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@functools.cache
def blocks(language: str) -> list[Block]:
    """Return all blocks of a language."""
    found = []
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(content):
            if block["language"] == language:
                line = content.count("\n", 0, block.start("text")) + 1
                found.append(Block(page, line, block["text"], block["reason"], block["file"]))
    return found


def programs() -> list[Block]:
    """Return the blocks that are whole programs."""
    found = [block for block in blocks("python") if block.reason is None and block.file is None]
    return [block for block in found if not is_file_of_site(block)]


def is_file_of_site(block: Block) -> bool:
    """Return whether another test runs a block, as one of the files of a site."""
    is_named = re.match(r"# \S+\.py\n", block.text) is not None
    return block.page.name in SITES or (block.page.name in MOUNTED_SITES and is_named)


every_block = pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with the files that pages name: certificates, settings of Django, a module of protoc."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # for the certificate for development
    monkeypatch.setenv("API_KEY", "0123456789abcdef" * 2)  # prepare-for-production.md makes one
    authority = trustme.CA()
    certificate = authority.issue_cert("chat.example.com", "localhost")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(tmp_path / "fullchain.pem", append=True)
    (tmp_path / "site_settings.py").write_text(SITE)
    shutil.copy(ROOT / "tests/support/chat_pb2.py", tmp_path)
    return tmp_path


# -- all blocks --------------------------------------------------------------------------------------------------------


@every_block
def test_a_block_compiles_and_its_imports_exist(block: Block) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    tree = compile(block.text, block.name, "exec", flags, dont_inherit=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pywsapp":
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_fragments_are_few_and_say_why() -> None:
    fragments = [block for block in blocks("python") if block.reason is not None]
    assert [block.name for block in fragments if not re.fullmatch(r": \S.* ", block.reason or "")] == []
    assert len([block for block in fragments if block.reason != OTHER_LIBRARY]) <= MAX_FRAGMENTS


def test_all_programs_run(directory: Path) -> None:
    paths = []
    for block in programs():
        path = directory / f"{block.page.stem}_line_{block.line}.py"
        path.write_text(block.text, encoding="utf-8")
        paths.append(path.name)
    command = [sys.executable, "-W", "error", "-c", RUN, *paths]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "site_settings"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


def serving_programs() -> list[Block]:
    """Return the programs with an App, without those whose settings would be those of all tests here."""
    others = re.compile("django|litestar", re.IGNORECASE)
    return [block for block in programs() if "App(" in block.text and others.search(block.text) is None]


@pytest.mark.parametrize("block", serving_programs(), ids=lambda block: block.name)
def test_the_app_of_a_program_serves(block: Block, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", [str(directory), *sys.path])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds; nothing receives what the programs export
    names: dict[str, object] = {"__name__": "docs"}
    exec(compile(block.text, block.name, "exec"), names)
    app = names.get("app")
    if app is None:
        return  # the program creates the App when it runs
    assert isinstance(app, App)
    app.rebind(address="127.0.0.1", port=0)

    async def main() -> None:
        with anyio.fail_after(WAIT_SECONDS):
            async with anyio.create_task_group() as tasks:
                await tasks.start(app.serve)
                assert app.urls
                tasks.cancel_scope.cancel()

    anyio.run(main)


@pytest.mark.parametrize("command", ["run", "demo", "asyncapi", "types"])
def test_the_options_of_commands_exist(command: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "pywsapp", command, "--help"], capture_output=True, text=True, timeout=50, check=True
    ).stdout
    used = {
        option
        for block in blocks("sh")
        for line in re.findall(rf"pywsapp {command}\b([^#\n]*)", block.text)
        for option in re.findall(r"--[a-z-]+", line)
    }
    for section in (ROOT / "docs/reference/command-line.md").read_text().split("\n## ")[1:]:
        if section.startswith(f"pywsapp {command} "):
            used |= set(re.findall(r"^\| `(--[a-z-]+)`", section, re.M))
    assert used
    assert [option for option in sorted(used) if option not in shown] == []


# -- the programs that users copy --------------------------------------------------------------------------------------


def program(page: str, part: str) -> str:
    """Return the last program of a page that contains a text, on a free port."""
    text = [block.text for block in programs() if block.page == ROOT / page and part in block.text][-1]
    return text.replace("8080", "0")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs a program as a user does, and stop all of them at the end."""
    started = []

    def start(text: str) -> Program:
        path = tmp_path / "program.py"
        path.write_text(text, encoding="utf-8")
        started.append(Program([str(path)], cwd=tmp_path))
        return started[-1]

    yield start
    for one in started:
        with one:
            one.send(signal.SIGTERM)
            assert one.end() == 0
            assert "Traceback" not in one.output


def opened(port: int, path: str) -> ClientConnection:
    return connect(f"ws://localhost:{port}{path}", open_timeout=WAIT_SECONDS)


def received(client: ClientConnection) -> str | bytes:
    return client.recv(timeout=WAIT_SECONDS)


def page_of(port: int) -> str:
    with urllib.request.urlopen(f"http://localhost:{port}/", timeout=WAIT_SECONDS) as response:
        return str(response.read().decode())


def test_the_chat_of_the_readme(run: Run) -> None:
    server = run(program("README.md", "class Chat"))
    port = server.port
    with opened(port, "/chat") as ana, opened(port, "/chat") as ben:
        ana.send("hello")
        assert received(ana) == received(ben) == "hello"
        ben.send(b"\x00")
        assert received(ana) == received(ben) == b"\x00"
    origin = {"Origin": "https://evil.example"}
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://localhost:{port}/chat", additional_headers=origin, open_timeout=WAIT_SECONDS)
    assert refused.value.response.status_code == 403


def test_the_first_chat_of_the_tutorial(run: Run) -> None:
    page = "docs/tutorial/first-chat.md"
    [added] = [block.text for block in blocks("python") if block.page == ROOT / page and block.reason]
    server = run(program(page, "class Chat").replace("if __name__", f"{added}\n\nif __name__"))
    port = server.port
    assert "<title>Chat</title>" in page_of(port)
    with opened(port, "/chat") as ana, opened(port, "/chat") as ben:
        ana.send("hello")
        assert received(ana) == "hello"
        assert received(ben) == "hello"


@pytest.mark.parametrize("part", ["test_echo", "test_shout", "test_a_slow_network"])
def test_the_tests_of_components_pass(part: str) -> None:
    exec(program("docs/howto/test-a-component.md", part), {"__name__": "__main__"})
