"""The command line: its commands, options, environment variables and messages."""

from __future__ import annotations

import json
import logging
import platform
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from urllib.request import urlopen

import pytest
import trustme
from support.program import BlockingClient, Program
from support.services import free_port
from support.serving import GUARD

from pywsapp import App, __version__
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
        (["demo", "--port", "many"], "argument --port: must be a number, not 'many'"),
        (["demo", "--backend", "gevent"], "argument --backend: must be asyncio or trio, not 'gevent'"),
        (["run"], "the following arguments are required: MODULE[:APP]"),
        (["run", "chat:app", "--workers", "many"], "argument --workers: must be a number or auto, not 'many'"),
        (["run", "chat:app", "--worker-timeout", "soon"], "argument --worker-timeout: must be a number, not 'soon'"),
        (["run", "chat", "--log-level", "loud"], "must be debug, info, warning, error or critical, not 'loud'"),
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
            assert b'"type":"disconnect"' in client.frame()[1]
            assert client.receive_close() == 1012
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
    """A directory with a module `chat` that has an App, and with modules that have none."""
    (tmp_path / "chat.py").write_text(CHAT)
    (tmp_path / "broken.py").write_text("import no_such_library")
    (tmp_path / "broken_name.py").write_text("from pywsapp import App; application = App()")
    return tmp_path


def who(port: int) -> tuple[str, int]:
    with urlopen(f"http://127.0.0.1:{port}/who", timeout=GUARD) as answer:
        worker, pid = answer.read().decode().split()
    return worker, int(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize(
    "arguments",
    [["chat"], ["chat:app", "--backend", "trio"], ["chat:make", "--factory"], ["chat:rooms.app"]],
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
def test_run_on_another_address_and_port(folder: Path) -> None:
    port = free_port()
    arguments = ["run", "chat:app", "--port", str(port), "--address", "localhost", "--workers", "auto"]
    with Program(["-m", "pywsapp", *arguments], cwd=folder) as program:
        assert program.port == port
        assert who(port)
        program.send(signal.SIGTERM)
        assert program.end() == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([":app"], "an App is named by its module and its name there, such as chat:app, not ':app'"),
        (["broken_name"], "module 'broken_name' has no 'app'; it has broken_name:application"),
        (["chta:app"], "there is no module 'chta' in {folder} or on sys.path"),
        (["./chat.py"], "'./chat.py' is a file: change to its directory and write its module, chat:app"),
        (["web/chat.py:make"], "'web/chat.py' is a file: change to its directory and write its module, chat:make"),
        (["chat.py:app"], "there is no module 'chat.py' in {folder} or on sys.path; write it as a module, chat:app"),
        (["rooms.chat:app"], "there is no module 'rooms' in {folder} or on sys.path"),
        (["chat:ap"], "module 'chat' has no 'ap'; it has chat:app"),
        (["chat:os"], "chat:os is no App, but module"),
        (["chat:make"], "chat:make is no App, but function; if it is a function that makes one, add --factory"),
        (["chat:os.name", "--factory"], "chat:os.name is no function that makes an App, but str"),
        (["chat:os.getpid", "--factory"], "chat:os.getpid is no App, but int"),
        (["chat:app", "--port", "70000"], "port must be an int from 0 to 65535, not 70000"),
        (["chat:app", "--max-pending", "0"], "max_pending must be a whole number from 1 on, not 0"),
        (["chat:app", "--health-port", "70000"], "port must be an int from 0 to 65535, not 70000"),
        (["chat:app", "--workers", "0"], "workers must be a number of processes of at least 1, not 0"),
        (["chat:app", "--worker-timeout", "0"], "worker_timeout must be a number greater than 0, not 0.0"),
        (["chat:app", "--worker-max-age", "-1"], "worker_max_age must be a number greater than 0, not -1.0"),
        (
            ["chat:app", "--worker-max-memory", "1000m"],
            "worker_max_age, worker_max_connections and worker_max_memory need more than one worker",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_in_the_place_of_the_app_is_one_line(arguments: list[str], what: str, folder: Path) -> None:
    with Program(["-m", "pywsapp", "run", *arguments], cwd=folder) as program:
        assert program.end() == 1
    assert program.output == f"pywsapp: {what.format(folder=folder)}\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_failing_import_shows_its_traceback(workers: str, folder: Path) -> None:
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


# -- options and environment variables ---------------------------------------------------------------------------------

SHOW = """
import pywsapp.app

class App(pywsapp.App):
    def run(self, **arguments):
        first = self._runner._listening.sockets[0]
        print(first.address, first.port, first.unix_path, first.fd, first.tls is not None)
        print(self._runner.http_host, self.topics.broker, self.topics.codec.is_signing)
        print(self._runner._proxies.trust(("10.0.0.1", 0)), self._runner._access_log, arguments)
        health = self._runner._listening.health
        print(
            self._runner.connection_limits.changed(),
            health and (health.listener.address, health.listener.port, health.path),
        )
        print(self.options.max_connection_age, self.options.idle_timeout, type(self._sessions._store).__name__)
        print(self.options.max_message_size, self.options.ping_interval, self.options.drain_delay, end=" ")
        print(self.options.drain_timeout)

app = App("chat.example", 8081, "127.0.0.2", session_store="memory")
"""


@pytest.fixture
def shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., list[str]]]:
    """Return the settings of an App after `pywsapp run` with some arguments and environment variables."""
    (tmp_path / "shown_app.py").write_text(SHOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    level = logging.getLogger("pywsapp").level

    def show(*arguments: str, **variables: str) -> list[str]:
        sys.modules.pop("shown_app", None)
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(f"PYWSAPP_{name}", value)
            assert main(["run", "shown_app", *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    yield show
    sys.modules.pop("shown_app", None)
    logging.getLogger("pywsapp").setLevel(level)


def test_without_options_the_settings_of_the_app_stay(shown: Callable[..., list[str]]) -> None:
    assert shown() == [
        "127.0.0.2 8081 None None False",
        "chat.example None False",
        "False False {'backend': 'asyncio', 'workers': 1}",
        "{} None",
        "None None MemorySessionStore",
        "1048576 20 0 30",
    ]


@pytest.mark.parametrize(
    ("option", "value", "line", "expected"),
    [
        ("--port", "9000", 0, "127.0.0.2 9000 None None False"),
        ("--address", "0.0.0.0", 0, "0.0.0.0 8081 None None False"),
        ("--unix-path", "/run/chat.sock", 0, "127.0.0.2 8081 /run/chat.sock None False"),
        ("--fd", "3", 0, "127.0.0.2 8081 None 3 False"),
        ("--http-host", "a.example, b.example", 1, "['a.example', 'b.example'] None False"),
        ("--trusted-proxies", "10.0.0.0/8,unix", 2, "True False {'backend': 'asyncio', 'workers': 1}"),
        ("--workers", "3", 2, "False False {'backend': 'asyncio', 'workers': 3}"),
        ("--backend", "trio", 2, "False False {'backend': 'trio', 'workers': 1}"),
        ("--max-pending", "70", 3, "{'max_pending': 70} None"),
        ("--health-port", "9090", 3, "{} ('127.0.0.1', 9090, '/health')"),
        ("--max-connections", "9", 3, "{'max_connections': 9} None"),
        ("--max-connections-per-address", "9", 3, "{'max_connections_per_address': 9} None"),
        ("--max-connections-per-user", "9", 3, "{'max_connections_per_user': 9} None"),
        ("--max-handshakes-per-second", "9.5", 3, "{'max_handshakes_per_second': 9.5} None"),
        ("--max-connection-age", "3600", 4, "3600.0 None MemorySessionStore"),
        ("--idle-timeout", "60", 4, "None 60.0 MemorySessionStore"),
        ("--max-message-size", "64k", 5, "65536 20 0 30"),
        ("--ping-interval", "5", 5, "1048576 5.0 0 30"),
        ("--drain-delay", "3", 5, "1048576 20 3.0 30"),
        ("--drain-timeout", "9", 5, "1048576 20 0 9.0"),
        ("--session-store", "redis://10.0.0.9", 4, "None None RedisSessionStore"),
    ],
)
def test_option_and_its_environment_variable(
    option: str, value: str, line: int, expected: str, shown: Callable[..., list[str]]
) -> None:
    variable = option.removeprefix("--").replace("-", "_").upper()
    default = shown()
    expected_lines = [expected if number == line else text for number, text in enumerate(default)]
    assert shown(option, value) == expected_lines
    assert shown(**{variable: value}) == expected_lines
    assert shown(**{variable: ""}) == default


def test_too_many_connections_of_a_user(shown: Callable[..., list[str]]) -> None:
    line = shown("--max-connections-per-user", "9", ON_TOO_MANY="close_oldest")[3]
    assert line.startswith("{'max_connections_per_user': 9, 'on_too_many': <TooMany.CLOSE_OLDEST")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_health_port(workers: str, folder: Path) -> None:
    with Program(
        ["-m", "pywsapp", "run", "chat:app", "--health-port", "0", "--workers", workers], cwd=folder
    ) as program:
        port = int(program.until(r"health checks on http://127.0.0.1:(\d+)/health")[1])
        assert program.port
        with urlopen(f"http://127.0.0.1:{port}/health/live", timeout=GUARD) as answer:
            assert json.load(answer)["status"] == "ok"
        program.send(signal.SIGTERM)
        assert program.end() == 0


def test_the_health_port_keeps_the_address_and_path_of_the_app() -> None:
    app = App("localhost", 0)
    app.health("/status", port=9090, address="0.0.0.0")
    app.configure(health_port=9091)
    health = app._runner._listening.health
    assert health is not None
    assert (health.listener.address, health.listener.port, health.path) == ("0.0.0.0", 9091, "/status")


def test_host_is_another_name_of_address(shown: Callable[..., list[str]]) -> None:
    assert shown("--host", "::", ADDRESS="127.0.0.3")[0] == ":: 8081 None None False"


def test_options_come_before_environment_variables(shown: Callable[..., list[str]]) -> None:
    assert shown("--port", "9000", PORT="9001", ADDRESS="127.0.0.3")[0] == "127.0.0.3 9000 None None False"
    assert shown("--port", "9000", UNIX_PATH="/run/chat.sock")[0] == "127.0.0.2 9000 None None False"
    assert shown("--fd", "3", PORT="9000", ADDRESS="::")[0] == "127.0.0.2 8081 None 3 False"
    assert "'workers': 2" in shown("--workers", "2", WORKERS="3")[2]


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("off", False), ("No", False)])
def test_access_log(value: str, expected: bool, shown: Callable[..., list[str]]) -> None:
    assert shown(ACCESS_LOG=value)[2].startswith(f"False {expected} ")
    assert shown("--access-log", ACCESS_LOG=value)[2].startswith("False True ")
    assert shown("--no-access-log", ACCESS_LOG=value)[2].startswith("False False ")


def test_log_level(shown: Callable[..., list[str]]) -> None:
    shown("--log-level", "debug")
    assert logging.getLogger("pywsapp").level == logging.DEBUG
    shown(LOG_LEVEL="error")
    assert logging.getLogger("pywsapp").level == logging.ERROR


def test_broker_and_its_key(shown: Callable[..., list[str]]) -> None:
    assert "RedisBroker" in shown("--broker", "redis://localhost")[1]
    assert shown(BROKER="nats://localhost", BROKER_KEY="secret")[1].endswith(" True")
    assert "NatsBroker" in shown(BROKER="nats://localhost")[1]


def test_certificate_and_key(shown: Callable[..., list[str]], tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    both, key, cert = (str(tmp_path / name) for name in ("both.pem", "key.pem", "cert.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(both)
    certificate.private_key_pem.write_to_path(key)
    certificate.cert_chain_pems[0].write_to_path(cert)
    assert shown("--tls-cert", both)[0].endswith(" True")
    assert shown("--tls-cert", cert, "--tls-key", key)[0].endswith(" True")
    assert shown(TLS_CERT=cert, TLS_KEY=key)[0].endswith(" True")


def test_self_signed(shown: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert shown("--tls-self-signed")[0].endswith(" True")
    assert shown(TLS_SELF_SIGNED="1")[0].endswith(" True")
    assert shown("--no-tls-self-signed", TLS_SELF_SIGNED="1")[0].endswith(" False")


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "what"),
    [
        ([], {"PORT": "many"}, 2, "environment variable PYWSAPP_PORT: must be a number, not 'many'"),
        ([], {"ACCESS_LOG": "maybe"}, 2, "environment variable PYWSAPP_ACCESS_LOG: must be 1 or 0, not 'maybe'"),
        (["--tls-key", "key.pem"], {}, 1, "--tls-key needs --tls-cert, the certificate of the key"),
        (["--tls-self-signed", "--tls-cert", "a.pem"], {}, 1, "choose one of --tls-self-signed and --tls-cert"),
        (["--unix-path", "/x", "--port", "1"], {}, 2, "choose one of --port and --unix-path"),
        (["--fd", "3", "--host", "::", "--port", "1"], {}, 2, "choose one of --address with --port and --fd"),
        ([], {"PORT": "1", "FD": "3"}, 2, "choose one of --port and --fd"),
        (["--http-host", "0.0.0.0"], {}, 1, "http_host, the first argument of App, is the name that clients write"),
        (["--trusted-proxies", "proxy"], {}, 1, "is not an IP address or network"),
        (["--broker", "kafka://localhost"], {}, 1, "no broker for kafka"),
        (["--on-too-many", "wait"], {}, 2, "argument --on-too-many: must be refuse or close_oldest, not 'wait'"),
        (["--on-too-many", "close_oldest"], {}, 1, "on_too_many needs max_connections_per_user"),
        (["--max-message-size", "many"], {}, 2, "must be a number of bytes such as 500, 16k or 1m, not 'many'"),
        (["--drain-timeout", "-1"], {}, 1, "Options.drain_timeout must be a number"),
        (["--idle-timeout", "0"], {}, 1, "Options.idle_timeout must be a number greater than 0, not 0.0"),
        (["--session-store", "sqlite://x"], {}, 1, "no session store for sqlite"),
    ],
)
def test_mistakes_in_options(
    arguments: list[str],
    variables: dict[str, str],
    status: int,
    what: str,
    shown: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        shown(*arguments, **variables)
    assert caught.value.code == status
    assert what in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "demo"])
def test_help_lists_all_options_with_their_variables(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    names = "address port unix-path fd http-host tls-cert tls-key trusted-proxies broker workers backend"
    for name in [*names.split(), "log-level", "access-log"]:
        assert f"--{name}" in text
        assert f"[PYWSAPP_{name.replace('-', '_').upper()}]" in text
    assert "--host ADDRESS" in text
    assert "PYWSAPP_BROKER_KEY" in text


# -- modules that run the App while they are imported ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "source", "call"),
    [
        (["server"], "app.run()", "app.run()"),
        (["server", "--workers", "2"], "app.run(workers=2)", "app.run()"),
        (["server"], "import anyio; anyio.run(app.serve)", "app.serve()"),
        (["server:make", "--factory"], "def make():\n    app.run()\n    return app", "app.run()"),
    ],
)
def test_unguarded_run_is_explained(arguments: list[str], source: str, call: str, folder: Path) -> None:
    (folder / "server.py").write_text(f"from chat import app\n{source}\n")
    with Program(["-m", "pywsapp", "run", *arguments], cwd=folder) as program:
        assert program.end() == 1
    assert program.output == (
        f"pywsapp: the module 'server' calls {call} while `pywsapp run` imports it; "
        f'put the call under `if __name__ == "__main__":` (server.py, line {3 if "make" in source else 2})\n'
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
def test_guarded_run_is_fine(folder: Path) -> None:
    (folder / "server.py").write_text("from chat import app\nif __name__ == '__main__':\n    app.run()\n")
    with Program(["-m", "pywsapp", "run", "server"], cwd=folder) as program:
        assert who(program.port)
        program.send(signal.SIGINT)
        assert program.end() == 0
