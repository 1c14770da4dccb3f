"""`pywsapp connect`: in a pipe, in a terminal, and what it says when it cannot connect or the server closes."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
from support.serving import GUARD

from pywsapp.cli import conversation, main, make_parser
from pywsapp.cli.close_texts import close_text
from pywsapp.cli.colours import coloured_json, has_colours
from pywsapp.cli.connect import keywords_of, reason_of, why_not
from pywsapp.cli.tables import safe
from pywsapp.exceptions import HandshakeError

pytestmark = pytest.mark.once
Pipe = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pipe(server: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Pipe:
    """Run `pywsapp connect` with lines as its input; return the status, the output and the errors."""

    def run(lines: str, *arguments: str, path: str = "/") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        monkeypatch.setattr(sys, "stdout", os.fdopen(os.dup(1), "w"))
        status = main(["connect", f"{server}{path}", *arguments])
        sys.stdout.close()
        written = capfdbinary.readouterr()
        return status, written.out.decode(), written.err.decode()

    return run


def test_each_line_is_a_message(pipe: Pipe) -> None:
    assert pipe("hello\nwörld\n\n/ping\nbye\n", "--wait", "inf") == (0, "hello\nwörld\n\n/ping\n", "")


def test_the_end_of_the_server_ends_the_pipe(pipe: Pipe) -> None:
    status, output, errors = pipe("hello\nend\n", "--wait", "inf")
    assert (status, output) == (1, "hello\n")
    assert errors == (
        "pywsapp: closed with 4401 UNAUTHENTICATED (the \\x1b[2J end): the credentials are missing or have expired; "
        "clients come back with new credentials\n"
    )


def test_a_pipe_gets_messages_as_they_are(pipe: Pipe) -> None:
    assert pipe("escape\nbye\n", "--wait", "inf")[1] == "\x1b[2J \u202e \n\n"


def test_input_that_is_not_text(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for errors in ("strict", "surrogateescape"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), "utf-8", errors))
        assert main(["connect", server, "--wait", "inf"]) == 1
        assert capsys.readouterr().err == "pywsapp: the input is not text in UTF-8\n"


def test_a_standard_input_that_is_closed(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["connect", server, "--wait", "0"]) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_an_output_that_cannot_be_written(server: str) -> None:
    command = [sys.executable, "-m", "pywsapp", "connect", server, "--wait", "inf"]
    with open("/dev/full", "wb") as full:
        found = subprocess.run(command, input=b"hello\n", stdout=full, stderr=subprocess.PIPE, timeout=GUARD)
    assert (found.returncode, found.stderr) == (
        1,
        b"pywsapp: the output cannot be written: No space left on device\n",
    )


def test_options_of_the_handshake(pipe: Pipe, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYWSAPP_TOKEN", "secret")
    origin = server.replace("ws:", "http:")
    options = ["--header", "X-A: 1", "--header", "X-B:2", "--origin", origin, "--subprotocol", "echo.v1"]
    status, output, _ = pipe("bye\n", *options, "--compress", "--wait", "inf", path="/?show=1")
    fields = json.loads(output)
    assert status == 0
    assert (fields["x-a"], fields["x-b"], fields["authorization"]) == ("1", "2", "Bearer secret")
    assert (fields["origin"], fields["sec-websocket-protocol"]) == (origin, "echo.v1")
    assert "permessage-deflate" in fields["sec-websocket-extensions"]


def test_a_url_without_a_scheme(pipe: Pipe, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for url in (server.removeprefix("ws://"), server.replace("ws:", "http:")):
        assert main(["connect", url, "--wait", "0"]) == 0


def test_insecure_does_not_check_the_certificate() -> None:
    chosen = make_parser().parse_args(["connect", "wss://a", "--insecure"])
    context = keywords_of(chosen)["tls"]
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    assert keywords_of(make_parser().parse_args(["connect", "wss://a"]))["tls"] is None


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (18, "self-signed certificate", "self-signed certificate; trust its authority with --ca-file"),
        (10, "certificate has expired", "certificate has expired; the server needs a new certificate"),
        (62, "Hostname mismatch.", "Hostname mismatch; write a name of the certificate in the URL"),
    ],
)
def test_a_certificate_that_is_not_valid(code: int, message: str, expected: str) -> None:
    exc = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)")
    exc.verify_code, exc.verify_message = code, message
    assert why_not("wss://a/?b=secret", exc) == (
        f"pywsapp: cannot connect to wss://a/?...: {expected}, or use --insecure for a test\n"
    )


def test_a_server_without_tls(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", server.replace("ws:", "wss:")]) == 1
    assert capsys.readouterr().err.endswith(": the server does not speak TLS; write ws:// in place of wss://\n")


def test_a_server_that_ends_the_connection_can_want_tls() -> None:
    exc = HandshakeError("the server closed the connection")
    assert why_not("ws://a", exc) == (
        "pywsapp: the server closed the connection; if the server speaks TLS, write wss:// in the URL\n"
    )
    assert why_not("wss://a", exc) == "pywsapp: the server closed the connection\n"


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (OSError(errno.EHOSTUNREACH, "Connect call failed ('10.0.0.9', 1)"), os.strerror(errno.EHOSTUNREACH)),
        (OSError(errno.EMFILE, "x"), "too many open files; raise the limit with ulimit -n"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError("no connection within 3 seconds"), "no connection within 3 seconds"),
        (OSError(), "OSError"),
    ],
)
def test_why_a_connection_was_not_opened(exc: OSError, expected: str) -> None:
    assert reason_of(exc) == expected


def test_a_refusal_has_its_status_and_content(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", f"{server}/private"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("pywsapp: the server answered 401 Unauthorized")
    assert "\n    status: 401\n" in errors
    assert errors.endswith("    the credentials are missing or not valid\n")


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        (["127.0.0.1:1/a?b=secret"], 1, "pywsapp: cannot connect to ws://127.0.0.1:1/a?...: nothing listens there\n"),
        (["ftp://a"], 1, "pywsapp: a WebSocket URL looks like"),
        (["ws://a", "--header", "nothing"], 2, "argument --header: must be 'NAME: VALUE', not 'nothing'"),
        (["ws://a", "--timeout", "0"], 2, "argument --timeout: must be a number greater than 0, not '0'"),
        (["ws://a", "--max-message-size", "big"], 2, "must be a number of bytes such as 500, 16k or 1m, not 'big'"),
    ],
)
def test_mistakes(arguments: list[str], status: int, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found: object = main(["connect", *arguments])
    except SystemExit as exc:
        found = exc.code
    assert found == status
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1000, "", "closed with 1000 NORMAL: the work is done; clients do not come back"),
        (1012, "", "closed with 1012 SERVICE_RESTART: the server restarts; clients come back later"),
        (4000, "a\nb", "closed with 4000 (a\\nb): a code of the application; clients come back later"),
        (3999, "", "closed with 3999: a code of a library; clients do not come back"),
        (
            1006,
            "",
            "closed with 1006 ABNORMAL_CLOSURE: the connection was lost without a close frame; clients come back later",
        ),
    ],
)
def test_close_codes_in_words(code: int, reason: str, expected: str) -> None:
    assert close_text(code, reason) == expected


def test_text_that_would_control_a_terminal_is_escaped() -> None:
    assert safe("a\x1b]0;title\x07\u202e\ud800\u009b\tä") == "a\\x1b]0;title\\x07\\u202e\\ud800\\x9b\\tä"
    assert safe("a\nb", keep="\n") == "a\nb"


# -- in a terminal -----------------------------------------------------------------------------------------------------


class Terminal:
    """`pywsapp connect` in a pseudo-terminal."""

    def __init__(self, arguments: list[str], state: Path, environment: Mapping[str, str]) -> None:
        pty = pytest.importorskip("pty")
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pywsapp", "connect", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={
                **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
                "PYTHONPATH": os.pathsep.join(sys.path),
                "TERM": "xterm",
                "XDG_STATE_HOME": str(state),
                **environment,
            },
        )
        os.close(slave)
        self.output = ""
        self.written = ""  # all of it
        self._decode = getincrementaldecoder("utf-8")("replace").decode  # a character can come in two pieces

    def type(self, text: str) -> None:
        """Type text; \\n is the Return key."""
        os.write(self._master, text.encode())

    def end_of_input(self) -> None:
        """Wait for a prompt, and type Ctrl-D, which the terminal itself would take before the prompt."""
        self.until("> ")
        self.type("\x04")

    def until(self, pattern: str) -> None:
        """Wait until the output since the last call matches a pattern, and drop it."""
        deadline = time.monotonic() + GUARD
        while (found := re.search(pattern, self.output)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} is not in {self.output!r}"
            try:
                read = self._decode(os.read(self._master, 65536))
                self.output += read
                self.written += read
            except OSError:  # the process has ended
                found = re.search(pattern, self.output)
                assert found is not None, f"{pattern!r} is not in {self.output!r}"
                break
        self.output = self.output[found.end() :]

    def end(self) -> int:
        """Wait for the end of the process; return its status."""
        return self.process.wait(GUARD)

    def close(self) -> None:
        """End the process if it runs."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Start `pywsapp connect` in a terminal."""
    started: list[Terminal] = []

    def start(*arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> Terminal:
        started.append(Terminal(list(arguments), tmp_path, environment))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_commands_of_the_terminal(terminal: Callable[..., Terminal], server: str, tmp_path: Path) -> None:
    shell = terminal(server, "--subprotocol", "echo.v1")
    shell.until(r"connected to ws://localhost:\d+, subprotocol echo.v1; /help lists commands")
    shell.type("hello\n")
    shell.until("< hello")
    shell.type("/ping\n")
    shell.until(r"pong after [\d.]+ ms")
    shell.type("/binary 00ff\n")
    shell.until("< binary 00ff")
    shell.type(f"/binary base64:{base64.b64encode(b'abc').decode()}\n")
    shell.until("< binary 616263")
    shell.type("/binary xyz\n")
    shell.until("write /binary 00ff")
    shell.type("/jsno\n")
    shell.until("there is no command /jsno; did you mean /json")
    shell.type("/json\n")
    shell.until("with line breaks")
    shell.type('{"a":[1]}\n')
    shell.until(r'< \{\s+\x1b\[34m"a"\x1b\[0m: \[\s+\x1b\[36m1\x1b\[0m\s+\]\s+\}')
    shell.type("//slash\n")
    shell.until("< /slash")
    shell.type("escape\n")
    shell.until(r"< \\x1b\[2J \\u202e")
    shell.type("/close 99\n")
    shell.until("close code 99 may not be sent")
    shell.type("/close 4000 the end\n")
    shell.until("closed with 4000")
    assert shell.end() == 0
    history = tmp_path / "pywsapp" / "connect_history"
    assert "//slash" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_a_message_at_the_start_shows_one_prompt(terminal: Callable[..., Terminal], server: str) -> None:
    shell = terminal(f"{server}/?show=1")
    shell.until(r"< \{.*\}")
    shell.type("hello\n")
    shell.until("< hello")
    shell.end_of_input()
    shell.until("closed with")
    assert shell.end() == 0
    assert "> > " not in shell.written


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "C"],
)
def test_a_terminal_without_the_characters_of_a_message(
    environment: dict[str, str], terminal: Callable[..., Terminal], server: str
) -> None:
    shell = terminal(f"{server}/?token=secret", environment=environment)
    shell.until(r"connected to ws://localhost:\d+/\?\.\.\.; /help")
    shell.type("h名\n")
    shell.until(r"< h\\u540d\r\n")
    shell.type("again\n")
    shell.until("< again")
    shell.end_of_input()
    assert shell.end() == 0


def test_a_line_that_is_not_text() -> None:
    with pytest.raises(ValueError, match="the line is not text in UTF-8"):
        conversation._text_of("h\udcff")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_environments_without_colours(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert has_colours()
    monkeypatch.setenv(name, value)
    assert not has_colours()
    show = conversation.Conversation(None, pretty=True)._shown  # type: ignore[arg-type] # it is not used here
    assert show("[1]") == "< [\n    1\n  ]"


def test_colours_of_json() -> None:
    assert not has_colours(), "pytest has replaced the standard output"
    assert coloured_json('{"a\\"": "b: 1", "c": [-1.5e3, true, null, "cut') == (
        '{\x1b[34m"a\\""\x1b[0m: \x1b[32m"b: 1"\x1b[0m, \x1b[34m"c"\x1b[0m: '
        '[\x1b[36m-1.5e3\x1b[0m, \x1b[35mtrue\x1b[0m, \x1b[35mnull\x1b[0m, "cut'
    )


def test_a_terminal_that_is_gone_ends_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = conversation.Conversation(SimpleNamespace(receive=lambda: "hello"), pretty=False)  # type: ignore[arg-type]

    def fail(text: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(talk, "show", fail)
    talk._has_left.set()
    talk._receive()
    assert talk._ended.is_set()


def test_a_message_does_not_destroy_the_line_that_is_edited(
    terminal: Callable[..., Terminal], server: str, pipe: Pipe
) -> None:
    shell = terminal(server)
    shell.type("later\n")
    shell.until("connected")
    shell.type("/ping\n")  # the server has handled the line before when the pong comes
    shell.until("pong after")
    shell.type("hel")
    shell.until("hel")
    pipe("now\n", "--wait", "0")
    shell.until("< now: later\r\n> hel")
    shell.type("lo\n")
    shell.until("< hello")
    shell.end_of_input()
    shell.until("closed with 1000 NORMAL")
    assert shell.end() == 0


def test_the_end_of_the_server_ends_the_terminal(terminal: Callable[..., Terminal], server: str) -> None:
    shell = terminal(server)
    shell.until("connected")
    shell.type("end\n")
    shell.until(r"closed with 4401 UNAUTHENTICATED \(the \\x1b\[2J end\)")
    assert shell.end() == 1


def test_long_messages_are_cut() -> None:
    show = conversation.Conversation(None, pretty=True)._shown  # type: ignore[arg-type] # it is not used here
    assert show("x" * 20_000).endswith("x... (20,000 characters)")
    assert show(b"x" * 20_000).endswith("78... (20,000 bytes)")
    assert show("[" * 100_000).startswith("< [[[[")
