"""`pywsapp new`: the project that it makes passes its own tests and checks, and its files are valid."""

from __future__ import annotations

import configparser
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.program import Program
from support.projects import new_project
from support.serving import GUARD

from pywsapp import __version__
from pywsapp.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project."""
    return new_project(tmp_path_factory.mktemp("new"), "my-chat")


def test_files(project: Path) -> None:
    found = sorted(str(path.relative_to(project)) for path in project.rglob("*") if path.is_file())
    assert found == [
        ".dockerignore",
        ".github/workflows/test.yml",
        ".gitignore",
        "Dockerfile",
        "README.md",
        "deploy/my-chat.service",
        "my_chat/__init__.py",
        "my_chat/app.py",
        "my_chat/room.py",
        "pyproject.toml",
        "tests/test_room.py",
    ]
    assert [name for name in found if re.search("@[A-Z]+@", (project / name).read_text())] == []


def test_its_tests_pass(project: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout


@pytest.mark.parametrize("command", [["check", "my_chat.app", "--fail-on-warning"], ["routes", "my_chat.app"]])
def test_it_has_no_warnings(
    command: list[str], project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert main(command) == 0
    assert "/room" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
def test_it_runs_as_the_dockerfile_and_the_unit_run_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dockerfile = (project / "Dockerfile").read_text()
    command = re.search(r'^CMD \["pywsapp", "run", "([^"]+)"\]$', dockerfile, re.MULTILINE)
    assert command is not None
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((project / "deploy" / "my-chat.service").read_text())
    assert unit["Service"]["ExecStart"] == f"/srv/my-chat/.venv/bin/pywsapp run {command[1]} --workers auto"
    assert unit["Service"]["Type"] == "notify"
    assert "USER 10001" in dockerfile
    settings = dict(re.findall(r"(PYWSAPP_[A-Z_]+)=(\S+)", dockerfile))
    assert settings == {"PYWSAPP_ADDRESS": "0.0.0.0", "PYWSAPP_PORT": "8080", "PYWSAPP_DRAIN_TIMEOUT": "8"}
    for name, value in {**settings, "PYWSAPP_ADDRESS": "127.0.0.1", "PYWSAPP_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    with Program(["-m", "pywsapp", "run", command[1]], cwd=project) as program:
        with urlopen(f"http://127.0.0.1:{program.port}/health", timeout=GUARD) as answer:
            assert answer.status == 200
        program.send(signal.SIGTERM)
        assert program.end() == 0


def test_metadata(project: Path) -> None:
    metadata = tomllib.loads((project / "pyproject.toml").read_text())
    assert metadata["project"]["name"] == "my-chat"
    assert metadata["project"]["dependencies"] == [f"pywsapp[redis,uvloop]>={__version__}"]
    assert metadata["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["my_chat"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("My Chat", "must be lower-case letters, digits, - and _, from a letter on, such as my-chat, not 'My Chat'"),
        ("../evil", "must be lower-case letters"),
        ("1st", "must be lower-case letters"),
        ("a" * 61, "must be lower-case letters"),
        ("json", "must be another one, because Python or pywsapp has a module json"),
        ("class", "must be another one, because Python or pywsapp has a module class"),
        ("pywsapp", "must be another one, because Python or pywsapp has a module pywsapp"),
    ],
)
def test_names_that_are_not_valid(name: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["new", name])
    assert caught.value.code == 2
    assert f"argument NAME: {what}" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    source = """
    import resource, signal
    from pywsapp.cli import main
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    main(["new", "chat"])
    """
    with Program(source, cwd=tmp_path) as program:
        assert program.end() == 1
    assert program.output == "pywsapp: cannot write chat/README.md: File too large; remove chat and try again\n"


def test_a_directory_that_exists_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat").mkdir()
    with pytest.raises(SystemExit) as caught:
        main(["new", "chat"])
    assert caught.value.code == 1
    assert capsys.readouterr().err == "pywsapp: chat exists already; choose another name\n"
    assert list((tmp_path / "chat").iterdir()) == []
