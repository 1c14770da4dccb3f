"""The command line starts fast, answers mistakes in one line, and shows only the frames of the user's program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.program import Program

from pywsapp.cli import main

pytestmark = pytest.mark.once


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["publish", "--help"]])
def test_help_imports_neither_the_app_nor_an_event_loop(arguments: list[str]) -> None:
    source = f"""
    import sys
    from pywsapp.cli import main
    try:
        main({arguments!r})
    finally:
        print("loaded:", sorted(sys.modules.keys() & {{"anyio", "asyncio", "pywsapp.app", "ssl", "wsproto"}}))
    """
    with Program(source) as program:
        assert program.end() == 0
    assert program.output.endswith("loaded: []\n")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["rnu"], "pywsapp: invalid choice: 'rnu'; did you mean run?; see pywsapp --help"),
        (["zzz"], "pywsapp: invalid choice: 'zzz'; see pywsapp --help"),
        (["demo", "--prot", "1"], "pywsapp demo: unrecognized arguments: --prot 1; did you mean --port?"),
        (["run", "chat", "--max-pendin=3"], "pywsapp run: unrecognized arguments: --max-pendin=3; did you mean"),
        (["run", "chat", "more"], "pywsapp run: unrecognized arguments: more; see pywsapp run --help"),
    ],
)
def test_a_mistake_is_one_line_with_what_was_meant(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    written = capsys.readouterr().err
    assert written.startswith(what)
    assert written.count("\n") == 1


BROKEN = {
    "in the module": "def fail():\n    raise ValueError('no')\nfail()\n",
    "in a library": "import json\njson.loads('{')\n",
    "with a cause": "try:\n    import no_library\nexcept ImportError as exc:\n    raise ValueError('no') from exc\n",
    "in a factory": "def app():\n    raise ValueError('no')\n",
}


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN.keys())
def test_the_traceback_of_a_program_has_no_frames_of_the_package(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_program.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_program", raising=False)
    factory = ["--factory"] if source == BROKEN["in a factory"] else []
    assert main(["run", "broken_program", *factory]) == 1
    written = capsys.readouterr().err
    files = re.findall(r'File "([^"]+)"', written)
    assert "broken_program.py" in files[0]
    assert [file for file in files if "/pywsapp/" in file or "importlib" in file] == []


def test_a_syntax_error_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong_syntax.py").write_text("x = = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["run", "wrong_syntax"]) == 1
    written = capsys.readouterr().err
    assert "wrong_syntax.py" in written
    assert "SyntaxError" in written
    assert "importlib" not in written


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_reader_that_has_enough_causes_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text("from pywsapp import App\napp = App()\n")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "pywsapp", "routes", "chat"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")
