"""`pywsapp run --env-file`: lines with variables, and mistakes in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pywsapp import ConfigurationError
from pywsapp.cli import main
from pywsapp.cli.env_file import load_env_file, parse

pytestmark = pytest.mark.once

TEXT = r"""
# a comment
A=1
export B = two words  # a comment
C='a # b $X \n'
D="x\n\"y\" # z" # a comment
E=
F=http://a.example/b#frag
G="é"
H= # a comment
I=a=b'c
"""


def test_values() -> None:
    assert dict(parse(TEXT, ".env")) == {
        "A": "1",
        "B": "two words",
        "C": r"a # b $X \n",
        "D": 'x\n"y" # z',
        "E": "",
        "F": "http://a.example/b#frag",
        "G": "é",
        "H": "",
        "I": "a=b'c",
    }


@pytest.mark.parametrize("line", ["A", "=1", "A='x", 'A="x', "1A=2", "A='x' y", "A-B=1", "A=a\0b"])
def test_a_line_that_is_no_assignment(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^\.env, line 2: write NAME=value"):
        dict(parse(f"X=1\n{line}\n", ".env"))


def test_variables_that_are_set_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("\ufeffPYWSAPP_TEST_A=file\nPYWSAPP_TEST_B=file\n", encoding="utf-8")
    monkeypatch.setenv("PYWSAPP_TEST_A", "environment")
    monkeypatch.setenv("PYWSAPP_TEST_B", "")
    monkeypatch.delenv("PYWSAPP_TEST_B")
    load_env_file(str(tmp_path / ".env"))
    assert (os.environ["PYWSAPP_TEST_A"], os.environ["PYWSAPP_TEST_B"]) == ("environment", "file")


def test_the_program_and_the_options_see_the_variables(
    module: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PYWSAPP_PORT", "PYWSAPP_TEST_HOST"):
        monkeypatch.setenv(name, "")  # so that the end of the test removes them
        monkeypatch.delenv(name)
    source = """
    import os, pywsapp

    class App(pywsapp.App):
        def run(self, **arguments):
            print(os.environ["PYWSAPP_TEST_HOST"], self.port)

    app = App()
    """
    (tmp_path / "settings.env").write_text("PYWSAPP_PORT=9123\nPYWSAPP_TEST_HOST=a.example\n")
    assert main(["run", module(source), "--env-file", "settings.env"]) == 0
    assert capsys.readouterr().out == "a.example 9123\n"


def test_check_reads_the_variables_of_the_server(
    module: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYWSAPP_MAX_CONNECTIONS", "")  # so that the end of the test removes it
    monkeypatch.delenv("PYWSAPP_MAX_CONNECTIONS")
    name = module("from pywsapp import App\napp = App()\n")
    (tmp_path / "settings.env").write_text("PYWSAPP_MAX_CONNECTIONS=9123\n")
    assert main(["check", name, "--env-file", "settings.env"]) == 0
    assert "limits: max_connections 9,123," in capsys.readouterr().out
    assert main(["check", name, "--env-file", "no.env"]) == 2
    assert capsys.readouterr().err == "pywsapp: cannot read no.env: No such file or directory\n"


@pytest.mark.parametrize(("content", "what"), [(None, "No such file"), (b"A=\xff", "it is not UTF-8")])
def test_a_file_that_cannot_be_read(
    content: bytes | None, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.env"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit):
        main(["run", "chat", "--env-file", str(file)])
    assert f"pywsapp: cannot read {file}: {what}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PROT", "PORT"),
        ("HOST", "ADDRESS"),
        ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
        ("BROKER_KEYS", "BROKER_KEY"),
        ("MAX_CONNECTION", "MAX_CONNECTIONS"),
    ],
)
def test_a_misspelt_variable_is_named(
    name: str,
    meant: str,
    module: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"PYWSAPP_{name}", "1")
    assert main(["check", module("from pywsapp import App\napp = App()\n")]) == 0
    expected = f"the environment variable PYWSAPP_{name} has no effect; did you mean PYWSAPP_{meant}?\n"
    assert capsys.readouterr().err == f"pywsapp check: {expected}"


def test_variables_of_the_program_are_not_reported(
    module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DATABASE_URL", "BROKER_KEY", "TOKEN", "TLS_CA"):
        monkeypatch.setenv(f"PYWSAPP_{name}", "0" * 32)
    assert main(["check", module("from pywsapp import App\napp = App()\n")]) == 0
    assert capsys.readouterr().err == ""
