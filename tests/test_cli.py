"""The command line, as a person uses it."""

from __future__ import annotations

import platform
import signal
import socket
import sys
from importlib.metadata import entry_points
from urllib.request import urlopen

import pytest
from program import BlockingClient, Program
from serving import GUARD

from pywsapp import __version__
from pywsapp.cli import main
from pywsapp.twin import describe


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
        (["--port", "70000"], "a port is an int from 0 to 65535, not 70000"),
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
