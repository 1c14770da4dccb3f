"""The files for platforms: the line of the Procfile runs, and the variables in all files are options."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.program import Program
from support.projects import new_project
from support.services import free_port
from support.serving import GUARD

from pywsapp import Options

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.once
DOCS = Path(__file__).parent.parent.parent / "docs"
FILES = {"Procfile": "", "fly.toml": "toml", "render.yaml": "yaml"}
#: Variables that are set for the program, and not options of the command line.
OTHERS = {"PYWSAPP_BROKER_KEY"}
#: What a shutdown takes beside its drain, without shutdown hooks: docs/howto/shut-down-cleanly.md.
SHUTDOWN_SECONDS = Options().on_close_timeout + 7


def test_the_line_of_the_procfile_runs(tmp_path: Path) -> None:
    project = new_project(tmp_path, "chat")
    (line,) = (DOCS / "deploy" / "Procfile").read_text().splitlines()
    command = line.removeprefix("web: ").replace(" pywsapp ", f" {shlex.quote(sys.executable)} -m pywsapp ")
    assert "-m pywsapp" in command
    port = free_port()
    shell = ["-c", "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])", command]
    with Program(shell, cwd=project, environment={"PORT": str(port)}) as program:
        assert program.port == port
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=GUARD) as answer:
            assert answer.status == 200
        program.send(signal.SIGTERM)
        assert program.end() == 0


@pytest.mark.parametrize("name", FILES)
def test_the_page_shows_the_file_and_its_variables_exist(name: str) -> None:
    text = (DOCS / "deploy" / name).read_text()
    assert f"```{FILES[name]}\n{text}```\n" in (DOCS / "howto" / "deploy-on-a-platform.md").read_text()
    options = (DOCS / "reference" / "command-line.md").read_text()
    variables = set(re.findall(r"PYWSAPP_\w+", text))
    assert variables
    assert [variable for variable in variables - OTHERS if f"`{variable}`" not in options] == []


def test_the_port_of_fly_is_that_of_the_image() -> None:
    settings = tomllib.loads((DOCS / "deploy" / "fly.toml").read_text())
    assert f"EXPOSE {settings['http_service']['internal_port']}\n" in (DOCS / "deploy" / "Dockerfile").read_text()


def test_the_longest_shutdown_ends_before_the_platform_kills_the_process() -> None:
    fly = tomllib.loads((DOCS / "deploy" / "fly.toml").read_text())["kill_timeout"]
    render = re.search(r"maxShutdownDelaySeconds: (\d+)", (DOCS / "deploy" / "render.yaml").read_text())
    assert render is not None
    for name, limit in {"Procfile": 30, "fly.toml": fly, "render.yaml": int(render[1])}.items():
        drain = re.search(r"PYWSAPP_DRAIN_TIMEOUT\W+(?:value: \")?(\d+)", (DOCS / "deploy" / name).read_text())
        assert drain is not None
        assert int(drain[1]) + SHUTDOWN_SECONDS < limit, name


def test_heroku_installs_the_project_by_its_requirements(tmp_path: Path) -> None:
    project = new_project(tmp_path, "chat")
    page = (DOCS / "howto" / "deploy-on-a-platform.md").read_text()
    commands = re.search(r"```sh\n(echo \. .*?)```", page, re.DOTALL)
    assert commands is not None
    subprocess.run(["sh", "-e", "-c", commands[1]], cwd=project, check=True)
    assert (project / "requirements.txt").read_text() == ".\n"
    assert (project / "pyproject.toml").exists()
