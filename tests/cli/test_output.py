"""The output of the commands: closed, full, and without the characters of a text."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from support.serving import GUARD

from pywsapp.cli.output import folded, size_of_terminal

pytestmark = pytest.mark.once

PROGRAM = """
from pywsapp import App, EchoServer

class Größe(EchoServer):
    pass

app = App()
app.route("/名", Größe())
"""
no_full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


def run(
    arguments: list[str], redirection: str = "", environment: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, bytes, str]:
    """Run a command with a redirection of the shell; return the status, the output and the errors."""
    command = subprocess.list2cmdline([sys.executable, "-m", "pywsapp", *arguments])
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(f"{command} {redirection}", shell=True, env=variables, capture_output=True, timeout=GUARD)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="the shell of Windows cannot close a stream")
@pytest.mark.parametrize("arguments", [["--version"], ["completion", "bash"]], ids=" ".join)
def test_a_closed_output_is_no_error(arguments: list[str]) -> None:
    assert run(arguments, ">&-") == (0, b"", "")


@no_full_device
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["completion", "bash"]], ids=" ".join)
def test_an_output_that_cannot_be_written_is_one_line(arguments: list[str]) -> None:
    expected = "pywsapp: the output cannot be written: No space left on device\n"
    assert run(arguments, ">/dev/full") == (1, b"", expected)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("arguments", [["--version"], ["completion", "bash"], ["routes", "chat"]], ids=" ".join)
def test_a_reader_that_has_enough_causes_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text("from pywsapp import App\napp = App()\n")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "pywsapp", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=GUARD,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_characters_that_the_output_lacks_are_escaped(module: Callable[[str], str]) -> None:
    name = module(PROGRAM)
    status, output, errors = run(["routes", name], environment={"PYTHONIOENCODING": "ascii"})
    assert (status, errors) == (0, "")
    assert b"/\\u540d" in output
    assert b"Gr\\xf6\\xdfe" in output


def test_documents_are_utf_8(module: Callable[[str], str]) -> None:
    name = module(PROGRAM)
    status, output, errors = run(["asyncapi", name, "--title", "名"], environment={"PYTHONIOENCODING": "ascii"})
    assert (status, errors) == (0, "")
    assert '"title": "名"' in output.decode()


@pytest.mark.parametrize(
    ("text", "indent", "width", "expected"),
    [
        ("note: one two three", 0, None, "note: one two three\n"),
        ("note: one two three", 0, 12, "note: one\ntwo three\n"),
        ("note: one two three", 4, 13, "note: one two\n    three\n"),
        ("a_word_longer_than_the_width", 2, 10, "a_word_longer_than_the_width\n"),
    ],
)
def test_long_lines_are_folded_for_a_terminal(text: str, indent: int, width: int | None, expected: str) -> None:
    assert folded(text, width, indent=indent) == expected


def test_a_terminal_without_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    main_end, other = pytest.importorskip("pty").openpty()
    with os.fdopen(main_end, "rb"), os.fdopen(other, "w") as stdout:
        monkeypatch.setattr(sys, "__stdout__", stdout)
        assert size_of_terminal() == (80, 24)
