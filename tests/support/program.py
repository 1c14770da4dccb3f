"""A program in a process of its own, for tests of signals, exit statuses and output."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType

import pytest
from typing_extensions import Self

from support.serving import CLOSE, Frame, close_frame, take_frame

#: Seconds after which a program that hangs fails a test; a busy machine needs many to start a few programs.
PATIENCE = 50

BACKENDS = {
    "asyncio": 'backend="asyncio", uvloop=False',
    "uvloop": 'backend="asyncio", uvloop=True',
    "trio": 'backend="trio"',
}

#: The arguments of `App.run` for each backend.
every_backend = pytest.mark.parametrize("run", BACKENDS.values(), ids=BACKENDS.keys())
#: The same without asyncio's own event loop, for tests in which it does not matter which loop asyncio has.
both_libraries = pytest.mark.parametrize("run", [BACKENDS["uvloop"], BACKENDS["trio"]], ids=["uvloop", "trio"])


class Program:
    """A Python program that runs until it ends or the test ends.

    Args:
        source: the source code, or a list of arguments for Python.
        pass_fds: file descriptors that the program inherits.
        cwd: the working directory of the program.
        user: the id of the user and of the group that it runs as; the tests must run as root then.
        environment: added to the environment of the program.
    """

    def __init__(
        self,
        source: str | list[str],
        *,
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
        user: int | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        arguments = ["-c", textwrap.dedent(source)] if isinstance(source, str) else source
        self._lines: list[str] = []
        self._has_ended = False  # the output
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            pass_fds=pass_fds,
            cwd=cwd,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def output(self) -> str:
        """The output so far: stdout and stderr."""
        return "".join(self._lines)

    @property
    def port(self) -> int:
        """The port in the start-up line; waits for that line."""
        return int(self.until(r"on \w+: https?://[^ ]+:(\d+)")[1])

    def until(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Wait until the output matches a pattern, from a position on; return the match."""
        expression = re.compile(pattern)
        with self._changed:
            # Output can follow the end of the process: what it has written last, and lines of its workers.
            self._changed.wait_for(lambda: self._has_ended or expression.search(self.output, start), PATIENCE)
            found = expression.search(self.output, start)
        assert found is not None, f"the program did not write {pattern!r} but:\n{self.output}"
        return found

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, within: float = PATIENCE) -> int:
        """Wait at most `within` seconds for the end of the program; return the exit status."""
        try:
            status = self.process.wait(within)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the program did not end:\n{self.output}")
        self._reader.join()
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()


class BlockingClient:
    """An open WebSocket on a blocking socket.

    Args:
        port: the server's port on 127.0.0.1.
        trailing: bytes that follow the handshake in the same segment.
        path: the target of the request.
    """

    def __init__(self, port: int, trailing: bytes = b"", path: str = "/") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._buffer = bytearray()
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.sock.sendall(head.encode() + trailing)
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head_bytes, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer[:] = rest
        if not head_bytes.startswith(b"HTTP/1.1 101 "):
            self.sock.close()
        assert head_bytes.startswith(b"HTTP/1.1 101 ")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    def frame(self) -> Frame:
        """Return the opcode and the payload of the next frame."""
        while (taken := take_frame(self._buffer)) is None:
            self._more()
        return taken

    def receive_close(self) -> int:
        """Receive the close frame, answer it and wait for the end of the stream; return the code."""
        opcode, payload = self.frame()
        assert opcode == CLOSE
        self.sock.sendall(close_frame(int.from_bytes(payload[:2], "big")))
        assert self.sock.recv(1) == b""
        return int.from_bytes(payload[:2], "big")

    def _more(self) -> None:
        data = self.sock.recv(65536)
        assert data, "the stream ended"
        self._buffer += data
