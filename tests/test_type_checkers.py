"""mypy and basedpyright accept right uses of the typed interface, and reject wrong ones on exactly the marked lines.

A comment `# E: arg-type reportArgumentType` names the error of mypy, then those of basedpyright.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

for checker in ("mypy", "basedpyright"):
    pytest.importorskip(checker, reason="the type checkers need `pip install 'pywsapp[dev]'`")

ROOT = Path(__file__).parent.parent

PROGRAM = """
from __future__ import annotations

from typing import Any

import msgspec
from typing_extensions import assert_type

from pywsapp import (
    ClientConnection, Connection, LoopConnection, MessageComponent, connect, connect_sync, reconnecting
)
from pywsapp.codecs import JsonCodec, MessagePackCodec

URL = "ws://localhost/"


class Join(msgspec.Struct, tag="join"):
    room: str


class Say(msgspec.Struct, tag="say"):
    text: str


class ChatState:
    name: str


class GameState:
    points: int


def greet(conn: Connection[ChatState]) -> None:
    conn.send({"hello": conn.state.name})


def say(conn: ClientConnection[Say]) -> None:
    conn.send(Say("hello"))


class Chat(MessageComponent):
    def on_open(self, conn: Connection[ChatState]) -> None:
        assert_type(conn.state.name, str)
        conn.state.name = 5  # E: assignment reportAttributeAccessIssue
        conn.state.points  # E: attr-defined reportAttributeAccessIssue
        greet(conn)

    async def on_message(self, conn: Connection[GameState], message: Join | Say) -> None:
        greet(conn)  # E: arg-type reportArgumentType
        conn.send(None)  # E: arg-type reportArgumentType
        await conn.send(message, timeout=5)  # E: call-arg reportCallIssue
        assert_type(await conn.call("confirm", {"text": "?"}, result_type=bool), bool)
        assert_type(await conn.call("names", result_type=list[str] | None), list[str] | None)
        assert_type(await conn.call("anything"), Any)
        text: str = await conn.call("confirm", result_type=bool)  # E: arg-type reportAssignmentType
        print(text)
        await conn.call("confirm", result_type=5)  # E: arg-type reportArgumentType
        await conn.call("confirm", timeout="5")  # E: arg-type reportArgumentType

    def on_close(self, conn: ChatState) -> None:  # E: override reportIncompatibleMethodOverride
        pass


async def client() -> None:
    async with connect(URL) as conn:
        assert_type(await conn.receive(), str | bytes)
        assert_type(await conn.receive(Join | Say, timeout=1), Join | Say)
        assert_type(await conn.receive(str), str)
        await conn.receive(5)  # E: call-overload reportArgumentType
        say(conn)  # E: arg-type reportArgumentType
    async with connect(URL, codec=[JsonCodec(), MessagePackCodec()], message_type=Join | Say) as typed:
        assert_type(await typed.receive(), Join | Say)
        async for message in typed:
            assert_type(message, Join | Say)
            message.text  # E: union-attr reportAttributeAccessIssue
        join: Join = await typed.receive(Say)  # E: arg-type reportAssignmentType
        print(join)
        say(typed)  # E: arg-type reportArgumentType
        assert_type(await typed.call("add", [1, 2], result_type=int), int)
        await typed.send(Join("tea"), timeout=5)
        await typed.send({1, 2})  # E: arg-type reportArgumentType
    async for each in reconnecting(URL, message_type=Say):
        assert_type(each, LoopConnection[Say])
        async for said in each:
            said.room  # E: attr-defined reportAttributeAccessIssue
        say(each)
    connect(URL, message_type=Say("no class"))  # E: arg-type reportArgumentType
    connect(URL, codec="json")  # E: arg-type reportArgumentType
    reconnecting(URL, message_type=5)  # E: arg-type reportArgumentType


def script() -> None:
    with connect_sync(URL, message_type=Say) as conn:
        assert_type(conn.receive(), Say)
        assert_type([message.text for message in conn], list[str])
        assert_type(conn.call("add", result_type=int), int)
        conn.receive(Join).text  # E: attr-defined reportAttributeAccessIssue
        conn.send(None)  # E: arg-type reportArgumentType
"""
Errors = set[tuple[int, str]]


def expected(first: int, last: int) -> Errors:
    """Return the lines with errors, and the words of their comments from the first to the last one."""
    found = set()
    for number, line in enumerate(PROGRAM.splitlines(), 1):
        words = line.partition("# E: ")[2].split()[first:last]
        found |= {(number, word) for word in words}
    return found


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_mypy(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    cache = ROOT / ".mypy_cache" / "type_checkers"
    options = ["--strict", "--no-error-summary", f"--cache-dir={cache}", "--config-file="]
    output = run(sys.executable, "-m", "mypy", *options, "program.py", cwd=tmp_path)
    errors = re.findall(r"^program\.py:(\d+): error: .*\[([a-z-]+)\]$", output, re.MULTILINE)
    assert {(int(line), code) for line, code in errors} == expected(0, 1), output


def test_basedpyright(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    paths = {"extraPaths": [str(ROOT / "src")], "venvPath": str(ROOT), "venv": ".venv"}
    settings = {"include": ["program.py"], "typeCheckingMode": "standard", "pythonVersion": "3.10", **paths}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    found = json.loads(run(sys.executable, "-m", "basedpyright", "--outputjson", cwd=tmp_path))["generalDiagnostics"]
    errors = {(one["range"]["start"]["line"] + 1, one.get("rule")) for one in found if one["severity"] == "error"}
    assert errors == expected(1, 2), [one["message"] for one in found]
