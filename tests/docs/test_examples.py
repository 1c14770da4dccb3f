"""Every program in examples/ runs, and does what its first lines say."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pytest
from support.program import Program
from support.services import free_port
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytest_plugins = ["pytester"]
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
#: The warning of the watchdog, which any handler can get without a free processor.
SLOW_HANDLER = ".* has been blocking the event loop"


class Example:
    """One of the servers, started as its first lines say, on a free port."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-u", str(EXAMPLES / name), "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        self.output = ""
        for line in self.process.stdout:
            self.output += line
            port = re.search(r"://localhost:(\d+)", line)
            if port:
                self.address = f"localhost:{port[1]}"
                return
        raise AssertionError(f"{name} did not start:\n{self.output}")

    def open(self, path: str) -> ClientConnection:
        return connect(f"ws://{self.address}{path}", open_timeout=20)

    def get(self, path: str) -> str:
        with urlopen(f"http://{self.address}{path}", timeout=20) as response:
            return str(response.read().decode())

    def stop(self) -> None:
        if self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=20)
        self.output += rest


@contextmanager
def running(name: str) -> Iterator[Example]:
    example = Example(name)
    try:
        yield example
    finally:
        example.stop()
    assert example.process.returncode == 0
    assert "Traceback" not in example.output
    assert re.findall(f"WARNING (?!received an invalid message|{SLOW_HANDLER}).*", example.output) == []


@pytest.mark.once
def test_the_command_line_finds_the_apps(tmp_path: Path) -> None:
    places = [f"{path.stem}:app" for path in EXAMPLES.glob("*.py") if "\napp = App(" in path.read_text("utf-8")]
    assert len(places) > 15
    program = """
        import sys
        from pywsapp.cli.loading import find_app
        for place in sys.argv[1:]:
            sys.argv = ["pywsapp", "run", place]
            print(find_app(place).port)
        print(find_app("chat:make_app", factory=True).port)
    """
    settings = {"ANSWERS_DATABASE": str(tmp_path / "answers.db"), "UPLOAD_DIRECTORY": str(tmp_path)}
    with Program(["-c", textwrap.dedent(program), *places], cwd=EXAMPLES, environment=settings) as running:
        assert running.end() == 0
    assert running.output == "8080\n" * (len(places) + 1)


@pytest.mark.once
def test_the_command_line_runs_an_example() -> None:
    command = ["-m", "pywsapp", "run", "job_progress:app", f"--port={free_port()}"]
    with Program(command, cwd=EXAMPLES, environment={"STEP_SECONDS": "0.01"}) as program:
        with connect(f"ws://localhost:{program.port}/live", open_timeout=20) as page:
            page.send(json.dumps({"id": 1, "type": "connect"}))
            assert json.loads(received(page))["type"] == "ok"
            page.send(json.dumps({"id": 2, "type": "call", "method": "start"}))
            topic = f"job:{json.loads(received(page))['result']}"
            page.send(json.dumps({"id": 3, "type": "subscribe", "topic": topic, "since": None}))
            while "finished" not in str(received(page)):
                pass
        program.send(signal.SIGTERM)
        assert program.end() == 0


def received(connection: ClientConnection) -> str | bytes:
    return connection.recv(timeout=20)


def client(url: str, *messages: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "client.py"), url, *messages]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=30, check=True)


def test_echo_and_client() -> None:
    with running("echo.py") as echo:
        url = f"ws://{echo.address}/echo"
        sent = client(url, "hello", "grüße 👋")
        assert sent.stdout == "hello\ngrüße 👋\n"
        assert "closed: 1000" in sent.stderr
        assert "closed: 1000" in client(url, typed="one\ntwo\n").stderr
        refused = client(f"ws://{echo.address}/nothing", "hello")
        assert "no connection" in refused.stderr
        assert "404" in refused.stderr
        assert "Traceback" not in refused.stderr
        with echo.open("/echo") as connection:
            connection.send(b"\x00\xff")
            assert received(connection) == b"\x00\xff"
    gone = client(url, "hello")  # the server is gone
    assert "no connection" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_listen() -> None:
    with running("echo.py") as echo:
        command = [sys.executable, "-u", str(EXAMPLES / "listen.py"), f"ws://{echo.address}/echo", "hello"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listen:
            assert listen.stdout is not None
            assert listen.stdout.readline() == "hello\n"
            listen.send_signal(signal.SIGINT)
            _, errors = listen.communicate(timeout=20)
    assert errors == "connected\n"
    with running("echo.py") as echo:
        command = [sys.executable, str(EXAMPLES / "listen.py"), f"ws://{echo.address}/nothing"]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert refused.returncode == 1
    assert "does not want this client: the server answered 404" in refused.stderr


def test_chat() -> None:
    with running("chat.py") as chat, chat.open("/chat") as ana, chat.open("/chat") as ben:
        ana.send("hello")
        assert received(ben) == "hello"
        ben.send("hello too")
        assert received(ana) == "hello too"


@pytest.mark.once
def test_the_tests_of_the_chat(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # of plugins that it does not use, which take a second
    for name in ("chat.py", "test_chat.py"):
        pytester.path.joinpath(name).write_text((EXAMPLES / name).read_text(encoding="utf-8"), encoding="utf-8")
    pytester.makeini("[pytest]")
    result = pytester.runpytest_subprocess(
        "-p", "anyio", "-p", "pywsapp_pytest", "-p", "no:cacheprovider", "-W", "error"
    )
    result.assert_outcomes(passed=5)


def test_rooms() -> None:
    with (
        running("rooms.py") as rooms,
        rooms.open("/rooms/tea?name=Ana") as ana,
        rooms.open("/rooms/coffee?name=Cem") as cem,
    ):
        assert received(ana) == "welcome to tea, there are 0 others"
        assert received(cem) == "welcome to coffee, there are 0 others"
        with rooms.open("/rooms/tea?name=Ben") as ben:
            assert received(ben) == "welcome to tea, there are 1 others"
            assert received(ana) == "Ben came in"
            ben.send("a cup?")
            assert received(ana) == "Ben: a cup?"
        assert received(ana) == "Ben left"
        with pytest.raises(InvalidStatus) as refused:
            rooms.open("/rooms/tea")
        assert refused.value.response.status_code == 403


def test_topics() -> None:
    def next_with(client: ClientConnection, field: str) -> dict[str, object]:
        """Return the next message with a field; who has joined and left can be sent at any time."""
        while field not in (message := json.loads(str(received(client)))):
            assert message.keys() == {"joined", "left"}
        return dict(message)

    with running("topics.py") as topics:
        with topics.open("/rooms/tea?name=Ana") as ana, topics.open("/rooms/tea?name=Ben") as ben:
            position = next_with(ana, "position")["position"]
            assert next_with(ben, "position") == {"position": position, "complete": True}
            ben.send("a cup?")
            said = next_with(ana, "message")
            assert said["message"] == "a cup?"
        with topics.open(f"/rooms/tea?name=Ana&since={position}") as again:
            assert next_with(again, "message") == said
            assert next_with(again, "complete") == {"position": said["position"], "complete": True}
        with topics.open("/rooms/tea?since=nothing") as bad, pytest.raises(ConnectionClosed) as closed:
            bad.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4000


def test_live_rooms() -> None:
    def ask(client: ClientConnection, **request: object) -> dict[str, object]:
        client.send(json.dumps(request))
        while (reply := json.loads(received(client))).get("id") != request["id"]:
            events.append(reply)
        return dict(reply)

    events: list[dict[str, object]] = []
    with running("live_rooms.py") as rooms:
        assert 'from "/pywsapp.js"' in rooms.get("/")
        assert "export const connect" in rooms.get("/pywsapp.js")
        with rooms.open("/live?name=Ana") as ana, rooms.open("/live?name=Ben") as ben:
            for client in (ana, ben):
                assert ask(client, id=1, type="connect")["type"] == "ok"
            reply = ask(ana, id=2, type="subscribe", topic="room:1", since=None, presence=True, track={})
            assert reply["present"] == {"Ana": {}}
            assert ask(ben, id=2, type="publish", topic="room:1", data="hello")["type"] == "ok"
            assert ask(ben, id=3, type="publish", topic="room:1", data="")["code"] == "too_long"
            assert ask(ben, id=4, type="call", method="members", params=["1"])["result"] == ["Ana"]
            assert ask(ana, id=5, type="untrack", topic="room:1")["type"] == "ok"
            assert [event.get("data") for event in events] == [{"from": "Ben", "text": "hello"}]


def test_topics_client() -> None:
    expected = ["Ana: hello", "here: Ana", "not sent: too_long: "]
    with running("live_rooms.py") as rooms:
        url = f"ws://{rooms.address}/live?name=Ana"
        command = [sys.executable, "-u", str(EXAMPLES / "topics_client.py"), url, "hello", ""]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            seen: list[str] = []
            while not all(any(line.startswith(one) for line in seen) for one in expected):
                seen.append(client.stdout.readline())
                assert seen[-1], client.communicate()[1]
            client.send_signal(signal.SIGINT)
            assert client.communicate(timeout=20)[1] == ""


def test_authenticated() -> None:
    with running("authenticated.py") as site:
        with pytest.raises(HTTPError, match="401"):
            site.get("/token")
        tokens = []
        for key in "ana", "ben":
            request = Request(f"http://{site.address}/token", headers={"X-API-Key": f"key-of-{key}-0123456789"})
            with urlopen(request, timeout=20) as response:
                tokens.append(json.loads(response.read())["token"])
        with pytest.raises(InvalidStatus) as refused:
            site.open("/chat?token=Ana.9999999999.x")
        assert refused.value.response.status_code == 401
        with site.open(f"/chat?token={tokens[0]}") as ana:
            assert received(ana) == "welcome Ana"
            ana.send(f"token {tokens[0]}")
            assert received(ana) == "renewed"
            ana.send(f"token {tokens[1]}")
            with pytest.raises(ConnectionClosed) as closed:
                ana.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


def test_authorized_topics() -> None:
    with (
        running("authorized_topics.py") as example,
        example.open("/topics?name=Ana") as ana,
        example.open("/topics?name=Ben") as ben,
        example.open("/topics?name=moderator") as moderator,
    ):
        for client, sent, answer in (
            (ana, "join public:tea", "joined public:tea"),
            (ben, "join inbox:Ben", "joined inbox:Ben"),
            (ana, "join inbox:Ben", "not allowed: join inbox:Ben"),
            (ana, "join inbox:*", "not allowed: join inbox:*"),
            (ana, "say other hello", "not allowed: say other hello"),
            (ana, "say public:tea hello", "Ana on public:tea: hello"),
            (ben, "mute Ana", "not allowed: mute Ana"),
            (moderator, "mute Ana", "muted Ana"),
            (ana, "say public:tea hello", "not allowed: say public:tea hello"),
            (moderator, "join public:tea", "joined public:tea"),
        ):
            client.send(sent)
            assert client.recv(timeout=20) == answer
        with pytest.raises(InvalidStatus, match="401"):
            example.open("/topics")
        moderator.send("say inbox:Ben psst")
        assert ben.recv(timeout=20) == "moderator on inbox:Ben: psst"
        moderator.send("say public:tea all")
        assert ana.recv(timeout=20) == "moderator on public:tea: all"


def test_http_and_websocket() -> None:
    with running("http_and_websocket.py") as site:
        assert "<title>Visitors</title>" in site.get("/")
        with site.open("/live") as one:
            assert received(one) == "1"
            with site.open("/live"):
                assert received(one) == "2"
            assert received(one) == "1"
            assert json.loads(site.get("/visitors")) == {"visitors": 1}


def test_sessions() -> None:
    with running("sessions.py") as site:
        browser = build_opener(HTTPCookieProcessor(jar := CookieJar()))
        url = f"http://{site.address}/"
        assert "Log in" in browser.open(url, timeout=20).read().decode()
        assert "Log out" in browser.open(url + "login", b"name=Ana", timeout=20).read().decode()
        cookie = {"Cookie": "; ".join(f"{one.name}={one.value}" for one in jar)}
        for visit in 1, 2:
            with connect(f"ws://{site.address}/hello", additional_headers=cookie, open_timeout=20) as hello:
                assert received(hello) == f"hello Ana, this is visit {visit}"
        assert "Log in" in browser.open(url + "logout", b"", timeout=20).read().decode()
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{site.address}/hello", additional_headers=cookie, open_timeout=20)
        assert refused.value.response.status_code == 401


def test_background_tasks() -> None:
    with running("background_tasks.py") as tasks:
        with tasks.open("/clock") as clock, tasks.open("/work") as work, tasks.open("/sum") as digest:
            assert re.fullmatch(r"\d\d:\d\d:\d\d", str(received(clock)))
            work.send("0.01")
            assert received(work) == "done"
            work.send("soon")
            assert received(work) == "how many seconds?"
            digest.send("some text")
            assert re.fullmatch("[0-9a-f]{64}", str(received(digest)))
        tasks.stop()
        assert "opening" in tasks.output
        assert "closing; 0 clients watch the clock" in tasks.output


def test_typed_client() -> None:
    with running("typed_chat.py") as chat, chat.open("/chat") as ben:
        ben.send(json.dumps({"type": "join", "room": "tea", "name": "Ben"}))
        command = [sys.executable, str(EXAMPLES / "typed_client.py"), f"ws://{chat.address}/chat", "Ana", "hello"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ana:
            assert ana.stdout is not None
            assert [ana.stdout.readline() for _ in range(2)] == ["here: Ana, Ben\n", "Ana: hello\n"]
            ben.send(json.dumps({"type": "say", "text": "hi"}))
            assert ana.stdout.readline() == "Ben: hi\n"
            ana.send_signal(signal.SIGINT)
            assert ana.wait(20) == 0
            assert ana.stderr is not None
            assert ana.stderr.read() == ""


def test_typed_chat() -> None:
    with running("typed_chat.py") as chat, chat.open("/chat") as ana, chat.open("/chat") as ben:
        for connection, name, names in ((ana, "Ana", ["Ana"]), (ben, "Ben", ["Ana", "Ben"])):
            connection.send(json.dumps({"type": "join", "room": "tea", "name": name}))
            connection.send(json.dumps({"id": 1, "method": "names_in", "params": {"room": "tea"}}))
            assert json.loads(received(connection)) == {"id": 1, "result": names}
        ana.send(json.dumps({"type": "say", "text": "hello"}))
        said = {"type": "said", "name": "Ana", "text": "hello"}
        assert [json.loads(received(ana)), json.loads(received(ben))] == [said, said]
        ben.send(json.dumps({"type": "say", "text": 5}))
        assert json.loads(received(ben))["path"] == "$.text"
        ben.send(json.dumps({"id": 2, "method": "names_in", "params": {"room": "attic"}}))
        assert json.loads(received(ben))["error"]["code"] == "not_found"
