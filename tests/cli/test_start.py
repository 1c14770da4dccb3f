"""The command line starts fast, answers mistakes in one line, and shows only the frames of the user's program."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
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


@pytest.mark.parametrize("factory", [False, True])
def test_a_mistake_of_a_program_names_its_line(
    factory: bool, module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = "from pywsapp import App\n\ndef app():\n    return App(port=70000)\n"
    name = module(source if factory else f"{source}\napp = app()\n")
    with pytest.raises(SystemExit):
        main(["run", name, *(["--factory"] if factory else [])])
    assert capsys.readouterr().err == f"pywsapp: port must be an int from 0 to 65535, not 70000 ({name}.py, line 4)\n"


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


@pytest.mark.parametrize(
    ("place", "arguments", "what"),
    [
        (".{name}", [], "an App is named by its module and its name there, such as chat:app, not '.{name}'"),
        (
            "{name}..a:app",
            [],
            "an App is named by its module and its name there, such as chat:app, not '{name}..a:app'",
        ),
        ("{name}:needs", ["--factory"], "{name}:needs needs arguments; --factory calls it without any"),
        ("{name}:later", ["--factory"], "{name}:later is an async function; --factory calls a function without await"),
    ],
)
def test_an_app_that_cannot_be_had_is_one_line(
    place: str, arguments: list[str], what: str, module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = module("def needs(settings): pass\nasync def later(): pass\n")
    with pytest.raises(SystemExit) as caught:
        main(["run", place.format(name=name), *arguments])
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"pywsapp: {what.format(name=name)}\n"


def test_an_attribute_that_fails_shows_the_traceback_of_the_program(
    module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = module("class Site:\n    @property\n    def app(self):\n        raise ValueError('no')\nsite = Site()\n")
    assert main(["run", f"{name}:site.app"]) == 1
    written = capsys.readouterr().err
    assert written.endswith("ValueError: no\n")
    assert written.count('File "') == 1
