"""The status of all processes for the open pages of one process, and the actions of their users.

Theory

Nothing runs while no page is open. While one is open, its process publishes a question about once a second on a
reserved topic, on which all processes of the App listen. Each process answers on the topic of the process that asks. So
one snapshot is made in a second for all pages of a process, and processes without a page do nothing but answer. A
process that does not answer in time is shown with its last report, until `_KEPT_SECONDS` have passed.

A program that can write to the broker can send any event. So a report counts only if it answers the last question, and
its form and its size are checked.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

import anyio

from pywsapp._http_text import one_line
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._log_fields import log_fields
from pywsapp._server.server import Server
from pywsapp._status.reports import MAX_TEXT, ErrorLog, Report, decode_report, encode_report, key_of, make_report
from pywsapp._status.snapshot import RateMeter, snapshot_of
from pywsapp.brokers.envelope import Envelope, EnvelopeError
from pywsapp.close_codes import CloseCode
from pywsapp.connection import Connection, broadcast
from pywsapp.exceptions import BrokerUnavailable, OutcomeUnknown
from pywsapp.stats import Stats
from pywsapp.topics.names import RESERVED
from pywsapp.topics.registry import TopicRegistry
from pywsapp.topics.users.users import Users

logger = logging.getLogger("pywsapp")

#: Seconds between two snapshots.
INTERVAL = 1.0
#: Seconds in which the other processes answer.
ANSWER_SECONDS = 0.3
#: Seconds for which a process that does not answer is shown.
_KEPT_SECONDS = 5.0
_STATUS_TOPIC = f"{RESERVED}status"
_MAX_PROCESSES = 256
#: A page that has not read so many bytes gets no further snapshot.
_MAX_BUFFERED = 1 << 20
_PROCESS = re.compile(r"[0-9a-f]{16}")
_MAX_NUMBER = 2**53
_REASON = "disconnected by the server"


class RunningApp(Protocol):
    """What the service needs to know of an App."""

    topics: TopicRegistry

    @property
    def users(self) -> Users:
        """The users of the App."""

    def stats(self) -> Stats:
        """Return the numbers of this process."""

    def start_soon(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Run an async def in the background."""


class StatusService:
    """The status of an App in one process. `App.status` creates it.

    Args:
        app: the App.
        find_server: returns the server of the App while it runs.
        find_worker: returns the number of the worker that this process is.
        can_disconnect: whether the users of the page can disconnect connections and users.
    """

    def __init__(
        self,
        app: RunningApp,
        find_server: Callable[[], Server | None],
        find_worker: Callable[[], int | None],
        *,
        can_disconnect: bool,
    ) -> None:
        self.can_disconnect = can_disconnect
        self._app = app  # when it is mounted, its topics become those of the outer App
        self._find_server = find_server
        self._find_worker = find_worker
        self._log = ErrorLog()
        self._pages: dict[Connection, None] = {}
        self._is_feeding = False
        self._number = 0
        self._made: Report | None = None  # the last report of this process
        self._reports: dict[str, tuple[Report, float]] = {}  # of other processes, and when they came
        self._awaited: set[str] = set()
        self._all_answered = anyio.Event()

    # -- running -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to answer other processes and to keep lines of the log; a startup hook."""
        self._is_feeding = False
        self._made = None
        self._log = ErrorLog()
        logger.addHandler(self._log)
        self._app.topics.process_events.listen(_STATUS_TOPIC, self._receive)
        server = self._find_server()
        if server is not None:
            server.connection_log.has_times = True

    def stop(self) -> None:
        """Undo `start`; a shutdown hook."""
        self._publish("gone", 1)
        logger.removeHandler(self._log)

    @property
    def _process(self) -> str:
        return self._app.topics.codec.origin

    def add_page(self, conn: Connection) -> None:
        """Send a page snapshots from now on."""
        self._pages[conn] = None
        if not self._is_feeding:
            self._is_feeding = True
            self._app.start_soon(self._feed)

    def discard_page(self, conn: Connection) -> None:
        """Handle the end of a page."""
        self._pages.pop(conn, None)

    async def _feed(self) -> None:
        """Send snapshots while a page is open."""
        events, own_topic = self._app.topics.process_events, f"{_STATUS_TOPIC}:{self._process}"
        rates = RateMeter()
        try:
            with anyio.move_on_after(ANSWER_SECONDS):
                await events.listen(own_topic, self._receive)
            while self._pages:
                due = monotonic() + INTERVAL
                await self._ask()
                self._send(rates)
                await anyio.sleep(max(0.0, due - monotonic()))
        finally:
            self._is_feeding = False
            self._reports.clear()
            events.unlisten(own_topic)

    async def _ask(self) -> None:
        """Request reports of the other processes; wait until those that have answered before have answered again."""
        if not self._app.topics.process_events.has_others:
            return
        self._number += 1
        self._awaited = set(self._reports)
        self._all_answered = anyio.Event()
        self._publish("ask", self._number)
        with anyio.move_on_after(ANSWER_SECONDS):
            await self._all_answered.wait()

    def _publish(self, kind: str, number: int, **values: Any) -> None:
        """Send an event to all other processes."""
        self._app.topics.process_events.publish(_STATUS_TOPIC, {"status": kind, "number": number, **values})

    def _send(self, rates: RateMeter) -> None:
        now = monotonic()
        self._reports = {one: found for one, found in self._reports.items() if now - found[1] < _KEPT_SECONDS}
        reports = {self._process: self._own_report()}
        reports |= {one: found[0] for one, found in self._reports.items()}
        rates.update(reports)
        late = {one: now - self._reports[one][1] for one in self._awaited & self._reports.keys()}
        snapshot = {**snapshot_of(reports, rates, late), "can_disconnect": self.can_disconnect}
        readers = [page for page in self._pages if page.buffered < _MAX_BUFFERED]
        broadcast(readers, json.dumps(snapshot, separators=(",", ":"), allow_nan=False))

    def _own_report(self) -> Report:
        """Return the report of this process, for a while the same: several processes can ask."""
        made = self._made
        if made is None or monotonic() - made.at >= INTERVAL / 2:
            stats = self._app.stats()
            made = make_report(self._find_worker(), self._find_server(), stats, self._app.topics, self._log)
            self._made = made
        return made

    # -- other processes ---------------------------------------------------------------------------------------------

    def _receive(self, envelope: Envelope) -> None:
        """Handle an event of another process.

        Raises:
            EnvelopeError: the event is invalid.
        """
        event, process = envelope.event or {}, envelope.origin
        kind, number = event.get("status"), event.get("number")
        if type(number) is not int or not 0 < number <= _MAX_NUMBER or not _PROCESS.fullmatch(process):
            raise EnvelopeError("its event has no valid number, or its process no valid name")
        if kind == "ask":
            answer = {"status": "report", "number": number, "report": encode_report(self._own_report())}
            self._app.topics.process_events.publish(f"{_STATUS_TOPIC}:{process}", answer)
        elif kind == "report":
            self._take_report(process, number, event.get("report"))
        elif kind == "gone":
            self._reports.pop(process, None)
        elif kind == "disconnect":
            if event.get("process") == self._process and self.can_disconnect:
                self._disconnect_here(number, str(event.get("by")))
        else:
            raise EnvelopeError("its event is not one that processes send about their status")

    def _take_report(self, process: str, number: int, report: Any) -> None:
        if not self._is_feeding or number != self._number:
            return  # it is late
        if process not in self._reports and len(self._reports) >= _MAX_PROCESSES:
            return
        self._reports[process] = decode_report(report), monotonic()
        self._awaited.discard(process)
        if not self._awaited:
            self._all_answered.set()

    # -- actions -----------------------------------------------------------------------------------------------------

    async def act(self, page: Connection, action: dict[str, Any]) -> str:
        """Do what the user of a page asks for; return a text for the page.

        Raises:
            ValueError: the action is invalid or not allowed; the text is for the page.
        """
        if not self.can_disconnect:
            raise ValueError("this page is for reading only")
        kind, by = action.get("action"), key_of(page, self._app.topics) or "a user without a key"
        if kind == "disconnect_user":
            key = action.get("user")
            if not isinstance(key, str) or not 0 < len(key) <= MAX_TEXT:
                raise ValueError(f"a user has a key of 1 to {MAX_TEXT} characters")
            logger.info(
                "%s disconnects the user %.100r by the status page",
                one_line(by),
                key,
                extra=log_fields("status.disconnected", by=by, user=key),
            )
            try:
                await self._app.users[key].disconnect()
            except (BrokerUnavailable, OutcomeUnknown):
                raise ValueError("the broker is not available, so other processes may have connections left") from None
            return f"The user {key} is disconnected."
        if kind != "disconnect":
            raise ValueError("there is no such action")
        process, number = action.get("process"), action.get("connection")
        if type(number) is not int or not 0 < number <= _MAX_NUMBER or not isinstance(process, str):
            raise ValueError("there is no such connection")
        if process == self._process:
            if not self._disconnect_here(number, by):
                raise ValueError("the connection has ended already")
        elif process in self._reports:
            self._publish("disconnect", number, process=process, by=by)
        else:
            raise ValueError("the process of the connection has ended")
        return f"The connection {number} is disconnected."

    def _disconnect_here(self, number: int, by: str) -> bool:
        """Close a connection of this process; return whether it is open."""
        server = self._find_server()
        for one in () if server is None else server.runtime.connections:
            if isinstance(one, Lifecycle) and one.conn.id == number and one.conn.is_open:
                conn = one.conn
                logger.info(
                    "%s disconnects %r by the status page",
                    one_line(by),
                    conn,
                    extra=log_fields("status.disconnected", conn, by=by),
                )
                conn.close(CloseCode.FORCED_DISCONNECT, _REASON)
                return True
        return False
