"""The messages between a worker and its supervisor: lines of words over one socket, in both directions.

    from a worker         begun                      `worker_context` was called; at SIGQUIT it sends its stacks
                          origin NAME                its name on the broker
                          listening                  it listens
                          alive SERVED MEMORY        its event loop runs; connections accepted so far, bytes of memory
                          stopping SECONDS           it shuts down, and needs so many seconds at most
    from the supervisor   replaced                   another worker listens in its place; the worker shuts down
                          gone NAME                  the worker with this name on the broker has ended
                          processes PID...           the worker processes that run now

A worker that ends, and a supervisor that ends, close the socket.

Over another socket, the supervisor passes each line of a worker on to all other workers; `pywsapp._server.user_limit`
has these messages. A flood of them cannot delay the messages above.
"""

from __future__ import annotations

import socket
from contextlib import suppress

BEGUN, ORIGIN, LISTENING, ALIVE, STOPPING = "begun", "origin", "listening", "alive", "stopping"
REPLACED, GONE, PROCESSES = "replaced", "gone", "processes"

#: Grows when the messages, or what a supervisor passes to its workers, change: a worker that starts after an upgrade of
#: pywsapp can have a supervisor of the version before.
PROTOCOL = 2
_READ_SIZE = 4096


class LineReader:
    """Splits the bytes from a socket into messages.

    Args:
        sock: the socket to read from.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    def read(self) -> list[list[str]] | None:
        """Receive once and return the complete messages, each as its words; None when the other side has ended.

        Blocks if the socket does.

        Raises:
            BlockingIOError: the socket does not block, and nothing has come.
        """
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            raise
        except OSError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace").split() for line in lines]


def send(sock: socket.socket, *words: object) -> None:
    """Send a message; nothing if the other side has ended or does not read. Does not block."""
    with suppress(OSError):
        sock.send(f"{' '.join(map(str, words))}\n".encode(), socket.MSG_DONTWAIT)
