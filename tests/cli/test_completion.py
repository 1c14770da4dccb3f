"""`pywsapp completion`: the scripts work in real shells."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pywsapp.cli import main, make_parser
from pywsapp.cli.completion import _commands_of

pytestmark = pytest.mark.once


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Path]:
    """Write the script for a shell into a file."""

    def write(shell: str) -> Path:
        assert main(["completion", shell]) == 0
        (tmp_path / shell).write_text(capsys.readouterr().out)
        return tmp_path / shell

    return write


def run(*command: str, cwd: Path | None = None) -> str:
    found = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=30)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"apt-get install {shell}")


BASH = [
    ("pywsapp ch", ["check"]),
    ("pywsapp c", ["check", "connect", "completion"]),
    ("pywsapp --ver", ["--version"]),
    ("pywsapp run --relo", ["--reload", "--reload-dir"]),
    ("pywsapp run chat --backend ", ["asyncio", "trio"]),
    ("pywsapp run chat --log-level w", ["warning"]),
    ("pywsapp run chat --port ", []),
    ("pywsapp run chat --tls-cert ", ["cert.pem", "folder"]),
    ("pywsapp run --reload-dir ", ["folder"]),
    ("pywsapp completion ", ["bash", "zsh", "fish"]),
    ("pywsapp routes --", ["--help", "--factory", "--json"]),
    ("pywsapp run ", []),
]


@needs("bash")
def test_bash(script: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "work"
    (folder / "folder").mkdir(parents=True)
    (folder / "cert.pem").write_text("")
    # compopt fails outside of a completion of the command line, so it is replaced.
    lines = [f"source '{script('bash')}'", "complete -p pywsapp", "compopt() { :; }"]
    for line, _ in BASH:
        words = " ".join(f"'{word}'" for word in line.split(" "))
        lines += [f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _pywsapp", 'echo "${COMPREPLY[*]}"']
    found = run("bash", "--norc", "-c", "\n".join(lines), cwd=folder).splitlines()
    assert found[0] == "complete -F _pywsapp pywsapp"
    assert [sorted(line.split()) for line in found[1:]] == [sorted(expected) for _, expected in BASH]


@needs("zsh")
def test_zsh_reads_the_script(script: Callable[[str], Path]) -> None:
    load = f"autoload -Uz compinit; compinit -u -D; source '{script('zsh')}'; echo $_comps[pywsapp]"
    assert run("zsh", "-f", "-c", load) == "_pywsapp\n"


@needs("fish")
def test_fish(script: Callable[[str], Path], tmp_path: Path) -> None:
    def complete(line: str) -> list[str]:
        source = f"source '{script('fish')}'; complete -C '{line}'"
        output = run("fish", "--no-config", "-c", source, cwd=tmp_path)
        return [found.partition("\t")[0] for found in output.splitlines()]

    assert complete("pywsapp ch") == ["check"]
    assert sorted(complete("pywsapp run --relo")) == ["--reload", "--reload-dir"]
    assert complete("pywsapp run --backend ") == ["asyncio", "trio"]
    assert sorted(complete("pywsapp completion ")) == ["bash", "fish", "zsh"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_is_in_the_script(shell: str, script: Callable[[str], Path]) -> None:
    text = script(shell).read_text()
    for name, (command, _) in _commands_of(make_parser()).items():
        assert name in text
        assert [option for option in command.option_strings() if option.removeprefix("--") not in text] == []
