"""The command line, as a person uses it."""

from __future__ import annotations

import platform
import signal
import socket
import sys
from importlib.metadata import entry_points
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.program import BlockingClient, Program
from support.serving import GUARD

from pywsapp import __version__
from pywsapp._compiled import describe
from pywsapp.cli import main


def run(*arguments: str) -> Program:
    return Program(["-m", "pywsapp", *arguments])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    python = f"Python {platform.python_version()}"
    assert capsys.readouterr().out == f"pywsapp {__version__} ({describe()}, {python})\n"


def test_script_of_the_package_is_main() -> None:
    scripts = entry_points(group="console_scripts", name="pywsapp")
    assert [script.value for script in scripts] in ([], ["pywsapp.cli:main"]), "none where it is not installed"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["demo", "--port", "many"], "invalid int value: 'many'"),
        (["demo", "--backend", "gevent"], "invalid choice: 'gevent'"),
        (["run"], "the following arguments are required: MODULE:APP"),
        (["run", "chat:app", "--workers", "many"], "argument --workers: a number or auto, not 'many'"),
    ],
)
def test_wrong_usage(arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert what in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_demo(backend: str) -> None:
    with run("demo", "--port", "0", "--backend", backend) as program:
        with urlopen(f"http://localhost:{program.port}/", timeout=GUARD) as page:
            assert b"<title>" in page.read()
        with BlockingClient(program.port, path="/chat") as client:
            program.send(signal.SIGINT)
            assert client.closed() == 1012
        assert program.end() == 0
    assert "Traceback" not in program.output


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--port", "70000"], "port must be an int from 0 to 65535, not 70000"),
        (["--address", "no.such.host.invalid"], "cannot listen on no.such.host.invalid:8080: the address is unknown"),
    ],
)
def test_mistake_is_one_line_without_a_traceback(arguments: list[str], what: str) -> None:
    with run("demo", *arguments) as program:
        assert program.end() == 1
    assert program.output.startswith(f"pywsapp: {what}")
    assert program.output.count("\n") == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_address_in_use_is_one_line_without_a_traceback(backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with run("demo", "--port", str(port), "--backend", backend) as program:
            assert program.end() == 1
    assert program.output == (
        f"pywsapp: cannot listen on 127.0.0.1:{port}: the address is in use; "
        "stop the other server, choose another port, or use port 0 for a free one\n"
    )


def test_trio_that_is_not_installed() -> None:
    source = """
    import sys
    sys.modules["trio"] = None
    from pywsapp.cli import main
    main(["demo", "--backend", "trio"])
    """
    with Program(source) as program:
        assert program.end() == 1
    assert program.output == "pywsapp: trio is not installed: pip install 'pywsapp[trio]'\n"


# -- run ---------------------------------------------------------------------------------------------------------------

CHAT = """
import os
from pywsapp import App, EchoServer

app = App("*", 0)
app.route("/", EchoServer())
app.http("/who", lambda request: f"{app.worker} {os.getpid()}")

def make():
    return app

class rooms:
    app = app
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a module `chat` that has an App, and one that lacks something."""
    (tmp_path / "chat.py").write_text(CHAT)
    (tmp_path / "broken.py").write_text("import no_such_library")
    return tmp_path


def who(port: int) -> tuple[str, int]:
    with urlopen(f"http://127.0.0.1:{port}/who", timeout=GUARD) as answer:
        worker, pid = answer.read().decode().split()
    return worker, int(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize(
    "arguments",
    [["chat:app"], ["chat:app", "--backend", "trio"], ["chat:make", "--factory"], ["chat:rooms.app"]],
    ids=lambda arguments: " ".join(arguments),
)
def test_run(arguments: list[str], folder: Path) -> None:
    with Program(["-m", "pywsapp", "run", *arguments], cwd=folder) as program:
        assert who(program.port) == ("None", program.process.pid)
        program.send(signal.SIGINT)
        assert program.end() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize("script", [False, True], ids=["python -m pywsapp", "pywsapp"])
def test_run_with_workers(script: bool, folder: Path) -> None:
    main_file = folder / "bin" / "pywsapp"
    main_file.parent.mkdir()
    main_file.write_text("import sys\nfrom pywsapp.cli import main\nsys.exit(main())")
    start = [str(main_file)] if script else ["-m", "pywsapp"]
    with Program([*start, "run", "chat:app", "--workers", "2"], cwd=folder) as program:
        program.until(": 2 workers on ")
        answers = {who(program.port) for _ in range(50)}
        assert {worker for worker, _ in answers} == {"1", "2"}
        assert len(answers) == 2
        program.send(signal.SIGTERM)
        assert program.end() == 0
    assert "Traceback" not in program.output


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
def test_run_elsewhere_than_the_app_says(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["run", "chat:app", "--port", str(port), "--address", "localhost", "--workers", "auto"]
    with Program(["-m", "pywsapp", *arguments], cwd=folder) as program:
        assert program.port == port
        assert who(port)
        program.send(signal.SIGTERM)
        assert program.end() == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["chat"], "an App is named by its module and its name in there, chat:app, not 'chat'"),
        (["chta:app"], "there is no module 'chta' in {folder} or on sys.path"),
        (["chat.py:app"], "there is no module 'chat.py' in {folder} or on sys.path; give it as a module, chat:app"),
        (["rooms.chat:app"], "there is no module 'rooms' in {folder} or on sys.path"),
        (["chat:ap"], "module 'chat' has no 'ap'; it has chat:app"),
        (["chat:os"], "chat:os is no App, but module"),
        (["chat:make"], "chat:make is no App, but function; is it a function that makes one? then --factory"),
        (["chat:os.name", "--factory"], "chat:os.name is no function that makes an App, but str"),
        (["chat:os.getpid", "--factory"], "chat:os.getpid is no App, but int"),
        (["chat:app", "--port", "70000"], "port must be an int from 0 to 65535, not 70000"),
        (["chat:app", "--workers", "0"], "workers must be a number of processes of at least 1, not 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_run_of_what_is_not_there_is_one_line(arguments: list[str], what: str, folder: Path) -> None:
    with Program(["-m", "pywsapp", "run", *arguments], cwd=folder) as program:
        assert program.end() == 1
    assert program.output == f"pywsapp: {what.format(folder=folder)}\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_run_of_a_module_that_cannot_be_imported_shows_where(workers: str, folder: Path) -> None:
    with Program(["-m", "pywsapp", "run", "broken:app", "--workers", workers], cwd=folder) as program:
        assert program.end() == 1
    assert program.output.count("ModuleNotFoundError: No module named 'no_such_library'") == 1
    assert "broken.py" in program.output


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
def test_port_in_use_with_workers_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["run", "chat:app", "--port", str(port), "--workers", "3"]
        with Program(["-m", "pywsapp", *arguments], cwd=folder) as program:
            assert program.end() == 1
    assert program.output.startswith(f"pywsapp: cannot listen on 127.0.0.1:{port}: the address is in use")
    assert program.output.count("\n") == 1
