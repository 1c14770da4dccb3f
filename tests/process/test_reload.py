"""`pywsapp run --reload`: the program is loaded again when its files change, and no client is refused meanwhile."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import anyio
import pytest
from support.program import BlockingClient, Program
from support.serving import GUARD

from pywsapp._process import file_watch
from pywsapp._process.file_watch import FileWatch

pytestmark = pytest.mark.once

APP = """
from pywsapp import App, EchoServer
import part

app = App("*", 0)
app.route("/", EchoServer())
app.http("/version", lambda request: part.VERSION)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a program of two modules."""
    (tmp_path / "chat.py").write_text(APP)
    (tmp_path / "part.py").write_text("VERSION = 'one'\n")
    return tmp_path


def version(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/version", timeout=GUARD) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers")
def test_a_change_of_a_module_loads_the_program_again(folder: Path) -> None:
    with Program(["-m", "pywsapp", "run", "chat", "--reload"], cwd=folder) as program:
        port = program.port
        assert version(port) == "one"
        with BlockingClient(port) as client:
            (folder / "part.py").write_text("VERSION = 'number two'\n")
            assert client.receive_close() == 1012
        program.until(r"part\.py changed")
        assert version(port) == "number two"
        (folder / "part.py").write_text("VERSION =\n")
        program.until("the old workers stay, fix the program and save it")
        assert version(port) == "number two"
        program.send(signal.SIGTERM)
        assert program.end() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers")
def test_a_program_that_cannot_be_loaded_is_tried_again(folder: Path) -> None:
    (folder / "part.py").write_text("VERSION = missing\n")
    with Program(["-m", "pywsapp", "run", "chat", "--reload-dir", "."], cwd=folder) as program:
        program.until("NameError: name 'missing' is not defined\npywsapp: waiting for a change of the program")
        (folder / "part.py").write_text("VERSION = 'fixed'\n")
        assert version(program.port) == "fixed"
        program.send(signal.SIGINT)
        assert program.end() == 0


def test_a_directory_that_does_not_exist(folder: Path) -> None:
    with Program(["-m", "pywsapp", "run", "chat", "--reload-dir", "no"], cwd=folder) as program:
        assert program.end() == 1
    assert program.output == "pywsapp: there is no directory no to watch\n"


def test_which_files_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left_out = [".git/d.py", "node_modules/e.py", "p/__pycache__/f.py", "env/lib/g.py", "conda/h.py"]
    for name in ("a.py", "b.txt", "p/c.py", *left_out):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    (tmp_path / "conda" / "conda-meta").mkdir()
    (tmp_path / ".#a.py").symlink_to("the lock of an editor")
    watched = FileWatch([str(tmp_path)])._look()
    assert sorted(path.removeprefix(f"{tmp_path}/") for path in watched) == ["a.py", "p/c.py"]
    monkeypatch.setattr(file_watch, "_MAX_FILES", 1)
    assert len(FileWatch([str(tmp_path)])._look()) == 1
    assert "only the first 1 files are watched; name the directories of your program with --reload-dir" in caplog.text


def test_a_slow_look_makes_the_pause_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.001, 10.0, 10.1])
    monkeypatch.setattr(file_watch, "time", SimpleNamespace(monotonic=lambda: next(times)))
    watch = FileWatch([str(tmp_path)])
    assert watch._pause == file_watch._INTERVAL
    watch._look()
    assert watch._pause == pytest.approx(2.0)


@pytest.mark.anyio
@pytest.mark.parametrize("change", ["write", "create", "remove", "replace"])
async def test_changes(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "_INTERVAL", 0.01)
    monkeypatch.setattr(file_watch, "_QUIET", 0.01)
    (tmp_path / "a.py").write_text("1")
    watch = FileWatch([str(tmp_path)])
    changes = 0
    changed = anyio.Event()

    def handle() -> None:
        nonlocal changes
        changes += 1
        changed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.follow, handle)
        if change == "write":
            (tmp_path / "a.py").write_text("22")
        elif change == "create":
            (tmp_path / "b.py").write_text("")
        elif change == "replace":  # as editors do
            (tmp_path / "a.py.tmp").write_text("22")
            os.replace(tmp_path / "a.py.tmp", tmp_path / "a.py")
        else:
            (tmp_path / "a.py").unlink()
        with anyio.fail_after(GUARD):
            await changed.wait()
        tasks.cancel_scope.cancel()
    assert changes == 1
