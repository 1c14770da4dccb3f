"""The load of `pywsapp bench`: connections, messages with the time at which they were due, and what came back.

Each message has a mark with the time at which it was due, and a reply or a broadcast is found by this mark wherever it
is in a message. With a rate, a message is due when the rate says so, not when the server has answered the one before.
So a server that stalls for a second has made a second's worth of messages late, and the latencies show all of them (the
correction of coordinated omission). Without a rate, a connection sends when its reply has come; such latencies do not
show what waiting clients would see.

Messages that were due before the end of the warm-up do not count. Those that were due before the end of the measurement
count when their reply comes up to `GRACE` seconds later, and otherwise as missing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from pywsapp.cli.connect import reason_of
from pywsapp.cli.latencies import Latencies
from pywsapp.client import ConnectKeywords, run_client
from pywsapp.close_codes import CloseCode
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, HandshakeError

#: Seconds after the end in which replies still count.
GRACE = 1.0
#: The bytes of a mark.
MARK_SIZE = 18

_OPENING = 64  # handshakes at a time
_LAG_INTERVAL = 0.01
_PROGRESS_INTERVAL = 0.2
#: The close codes that follow from the close frame of this side.
_OURS = (CloseCode.NORMAL, CloseCode.NO_STATUS_RECEIVED, CloseCode.ABNORMAL_CLOSURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a load test.

    Args:
        url: the URL.
        connect: the arguments of `connect`.
        headers: further header fields.
        connections: how many.
        rate: messages per second of all connections together; None for one message after the other.
        broadcast: whether the first connection sends, and all of them get each message.
        template: the text around the mark, with one %s; None for the mark with padding.
        size: bytes of a message without a template.
        is_binary: whether messages are binary.
        duration: seconds of the measurement.
        warm_up: seconds before it.
    """

    url: str
    connect: ConnectKeywords = field(default_factory=lambda: ConnectKeywords())
    headers: Sequence[tuple[str, str]] = ()
    connections: int
    rate: float | None
    broadcast: bool
    template: str | None
    size: int
    is_binary: bool
    duration: float
    warm_up: float

    def message(self, due: int) -> str | bytes:
        """Return a message that was due at a time in nanoseconds."""
        mark = f"~{due:016x}~"
        text = mark.ljust(self.size, "x") if self.template is None else self.template.replace("%s", mark, 1)
        return text.encode() if self.is_binary else text


def due_time(message: str | bytes) -> int | None:
    """Return the time in the mark of a message; None if it has none."""
    text = message if isinstance(message, str) else message.decode("latin-1")
    at = text.find("~")
    while at >= 0:
        if text[at + MARK_SIZE - 1 : at + MARK_SIZE] == "~":
            try:
                return int(text[at + 1 : at + MARK_SIZE - 1], 16)
            except ValueError:
                pass
        at = text.find("~", at + 1)
    return None


class Progress(NamedTuple):
    """How far a load test is.

    Attributes:
        opened: the connections that were opened.
        failed: those that could not be opened.
        passed: seconds since all of them were tried; None before.
        answered: the replies.
    """

    opened: int
    failed: int
    passed: float | None
    answered: int


@dataclass(slots=True)
class Result:
    """The result of a load test. Times are in nanoseconds.

    Attributes:
        latencies: from the time at which a message was due until its reply came.
        handshakes: the durations of handshakes, connecting included.
        lags: how late the event loop of the load generator was.
        sent: messages that were due during the measurement.
        answered: those whose reply, or a copy of which, has come.
        others: messages without a mark.
        failures: connections that were not opened, by the reason.
        closed: connections that the server closed, by the close code.
        seconds: the measured time.
        processor: seconds of processor time of the load generator during it.
        is_interrupted: whether the user ended it.
    """

    latencies: Latencies = field(default_factory=Latencies)
    handshakes: Latencies = field(default_factory=Latencies)
    lags: Latencies = field(default_factory=Latencies)
    sent: int = 0
    answered: int = 0
    others: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    closed: Counter[int | None] = field(default_factory=Counter)
    seconds: float = 0.0
    processor: float = 0.0
    is_interrupted: bool = False


class Load:
    """One load test; `run` carries it out.

    Args:
        plan: what to do.
        progress: called a few times in a second.

    Attributes:
        is_closing: whether this side closes the connections.
    """

    def __init__(self, plan: Plan, progress: Callable[[Progress], None]) -> None:
        self._plan = plan
        self._progress = progress
        self._result = Result()
        self._open: list[Connection] = []
        self._begin = 0  # of the measurement
        self._end = 0
        self._is_stopped = False
        self._mistake: ConfigurationError | None = None  # in the arguments of the connections
        self.is_closing = False

    def stop(self) -> None:
        """End the test early; the result has what was measured so far. A signal handler can call this."""
        self._is_stopped = True

    async def run(self) -> Result:
        """Open the connections, send, measure, close the connections, and return the result.

        Raises:
            ConfigurationError: an argument of the connections is invalid.
        """
        plan, result = self._plan, self._result
        async with anyio.create_task_group() as tasks:
            await self._connect_all(tasks)
            if self._open and not self._is_stopped:
                now = time.perf_counter_ns()
                self._begin = now + int(plan.warm_up * 1e9)
                self._end = self._begin + int(plan.duration * 1e9)
                async with anyio.create_task_group() as measuring:
                    measuring.start_soon(self._measure_lag)
                    self._start_sending(measuring)
                    await self._wait_until(self._begin, now)
                    if self._open and not self._is_stopped:
                        processor, began = time.process_time(), time.perf_counter_ns()
                        await self._wait_until(self._end, now)
                        result.processor = time.process_time() - processor
                        result.seconds = (time.perf_counter_ns() - began) / 1e9
                    self._end = min(self._end, time.perf_counter_ns())
                    measuring.cancel_scope.cancel()
                await self._wait_for_replies()
            result.is_interrupted = self._is_stopped
            self.is_closing = True
            for conn in list(self._open):
                conn.close()
            with anyio.move_on_after(GRACE):
                while self._open:  # noqa: ASYNC110 - connections end one by one
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        if self._mistake is not None:
            raise self._mistake
        return result

    # -- connections -------------------------------------------------------------------------------------------------

    async def _connect_all(self, tasks: Any) -> None:
        slots = anyio.Semaphore(_OPENING)
        async with anyio.create_task_group() as watching:
            watching.start_soon(self._watch_opening, watching.cancel_scope)
            async with anyio.create_task_group() as opening:
                for _ in range(self._plan.connections):
                    await slots.acquire()
                    opening.start_soon(self._connect, tasks, slots)
            watching.cancel_scope.cancel()

    async def _connect(self, tasks: Any, slots: anyio.Semaphore) -> None:
        decided = anyio.Event()
        tasks.start_soon(self._run_connection, decided)
        await decided.wait()
        slots.release()

    async def _watch_opening(self, opening: anyio.CancelScope) -> None:
        """Show how many connections are open, and stop opening more of them when the test is stopped."""
        while not self._is_stopped:
            await anyio.sleep(_PROGRESS_INTERVAL)
            self._show_progress(None)
        opening.cancel()

    async def _run_connection(self, decided: anyio.Event) -> None:
        client = _Client(self, decided)
        try:
            conn = await run_client(client, self._plan.url, headers=self._plan.headers, **self._plan.connect)
            if not client.was_ours:
                self._result.closed[conn.close_code] += 1
        except (HandshakeError, OSError) as exc:
            self._result.failures[reason_of(exc)] += 1
        except ConfigurationError as exc:
            self._mistake, self._is_stopped = exc, True
        finally:
            decided.set()

    def opened(self, conn: Connection, began: int) -> None:
        """Note a new connection."""
        self._open.append(conn)
        self._result.handshakes.add(time.perf_counter_ns() - began)

    def ended(self, conn: Connection) -> None:
        """Forget a connection that has ended."""
        self._open.remove(conn)

    # -- messages ----------------------------------------------------------------------------------------------------

    def _start_sending(self, tasks: Any) -> None:
        if self._plan.rate is not None:
            tasks.start_soon(self._send_at_rate, self._plan.rate)
            return
        for conn in self._open:
            self._send(conn, time.perf_counter_ns())

    def _send(self, conn: Connection, due: int) -> None:
        if self._begin <= due < self._end:
            self._result.sent += 1
        conn.send(self._plan.message(due))

    async def _send_at_rate(self, rate: float) -> None:
        began = time.perf_counter_ns()
        interval = 1e9 / rate
        number = 0
        while self._open:
            due = began + int(number * interval)
            wait = due - time.perf_counter_ns()
            if wait > 0:
                await anyio.sleep(wait / 1e9)
                continue
            self._send(self._open[0 if self._plan.broadcast else number % len(self._open)], due)
            number += 1
            if number % 256 == 0:
                await anyio.lowlevel.checkpoint()  # replies are read also while the sender is late

    def received(self, conn: Connection, message: str | bytes) -> None:
        """Count a message of the server, and send the next one without a rate."""
        now, due = time.perf_counter_ns(), due_time(message)
        if due is None:
            self._result.others += 1
            return
        if self._begin <= due < self._end:
            self._result.answered += 1
            self._result.latencies.add(now - due)
        if self._plan.rate is None and now < self._end and conn.is_open:
            self._send(conn, now)

    @property
    def _expected(self) -> int:
        return self._result.sent * (self._plan.connections if self._plan.broadcast else 1)

    async def _wait_for_replies(self) -> None:
        deadline = time.perf_counter_ns() + int(GRACE * 1e9)
        while self._result.answered < self._expected and self._open and time.perf_counter_ns() < deadline:  # noqa: ASYNC110
            await anyio.sleep(0.01)

    # -- time --------------------------------------------------------------------------------------------------------

    async def _wait_until(self, when: int, since: int) -> None:
        while (left := when - time.perf_counter_ns()) > 0 and self._open and not self._is_stopped:
            await anyio.sleep(min(left / 1e9, _PROGRESS_INTERVAL))
            self._show_progress((time.perf_counter_ns() - since) / 1e9)

    def _show_progress(self, passed: float | None) -> None:
        result = self._result
        self._progress(Progress(result.handshakes.count, result.failures.total(), passed, result.answered))

    async def _measure_lag(self) -> None:
        while True:
            due = time.perf_counter_ns() + int(_LAG_INTERVAL * 1e9)
            await anyio.sleep(_LAG_INTERVAL)
            now = time.perf_counter_ns()
            if now >= self._begin:
                self._result.lags.add(max(now - due, 0))


class _Client(MessageComponent):
    """The component of one connection."""

    def __init__(self, load: Load, decided: anyio.Event) -> None:
        self.was_ours = False  # this side has closed the connection
        self._load = load
        self._decided = decided
        self._began = time.perf_counter_ns()

    def on_open(self, conn: Connection) -> None:
        self._load.opened(conn, self._began)
        self._decided.set()

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        self._load.received(conn, message)

    def on_close(self, conn: Connection) -> None:
        self.was_ours = self._load.is_closing and conn.close_code in _OURS
        self._load.ended(conn)
