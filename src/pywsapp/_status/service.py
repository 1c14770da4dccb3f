"""The status of all processes for the open pages of one process, and the actions of their users.

Theory

Nothing runs while no page is open. While one is open, its process publishes a question about once a second on a
reserved topic, on which all processes of the App listen. Each process answers on the topic of the process that asks. So
one snapshot is made in a second for all pages of a process, and processes without a page do nothing but answer. A
process that does not answer in time is shown with its last report, until `_KEPT_SECONDS` have passed. A report is made
in turns of the event loop, since it looks at each connection.

A program that can write to the broker can send any event. So a report counts only if it answers the last question, and
its form and its size are checked.

An App has one service for all its pages, and so have an App and those that are mounted on it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

import anyio

from pywsapp._http_text import one_line
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._log_fields import log_fields
from pywsapp._outbox.awaitables import LazyCoroutine
from pywsapp._process.running import Runner
from pywsapp._status.reports import MAX_TEXT, ErrorLog, Report, decode_report, encode_report, make_report, name_of
from pywsapp._status.snapshot import RateMeter, snapshot_of
from pywsapp._version import __version__
from pywsapp.brokers.envelope import Envelope, EnvelopeError
from pywsapp.close_codes import CloseCode
from pywsapp.connection import Connection, broadcast
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError, OutcomeUnknown
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
#: Seconds after which a report counts as late. A busy process of many connections needs some of them for its answer.
_LATE_SECONDS = 2.0
#: A report can answer the last question, or one of those before it.
_LAST_QUESTIONS = 3
_STATUS_TOPIC = f"{RESERVED}status"
_MAX_PROCESSES = 256
#: A page that has not read so many bytes gets no further snapshot.
_MAX_BUFFERED = 1 << 20
_PROCESS = re.compile(r"[0-9a-f]{16}")
_MAX_NUMBER = 2**53
_REASON = "disconnected by the server"


class RunningApp(Protocol):
    """The part of an App that the service uses."""

    topics: TopicRegistry

    @property
    def users(self) -> Users:
        """The users of the App."""

    def start_soon(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Run an async def in the background."""


class StatusService:
    """The status of an App in one process. `App.status` creates it.

    Args:
        app: the App.
        find_runner: returns what runs the App: after `App.mount` that of the outer App.

    Attributes:
        can_disconnect: whether the users of one of the pages can disconnect connections and users.
    """

    def __init__(self, app: RunningApp, find_runner: Callable[[], Runner]) -> None:
        self.can_disconnect = False
        self._app = app  # when it is mounted, its topics become those of the outer App
        self._find_runner = find_runner
        self._log = ErrorLog()
        self._pages: dict[Connection, bool] = {}  # with whether its user can disconnect
        self._is_feeding = False
        self._number = 0
        self._making = anyio.Lock()
        self._made: Report | None = None  # the last report of this process
        self._reports: dict[str, tuple[Report, float]] = {}  # of other processes, and when they came
        self._awaited: set[str] = set()
        self._all_answered = anyio.Event()
        self._asking: dict[str, int] = {}  # the processes that wait for a report of this one, with their last question
        self._is_answering = False

    def include(self, other: StatusService) -> None:
        """Serve the pages of an App that is mounted, whose service does nothing from now on."""
        self.can_disconnect = self.can_disconnect or other.can_disconnect

    # -- running -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to answer other processes and to keep lines of the log; a startup hook."""
        runner = self._find_runner()
        if runner.hooks.status is not self:
            return
        self._is_feeding = self._is_answering = False
        self._asking.clear()
        self._making = anyio.Lock()
        self._made = None
        self._log = ErrorLog()
        logger.addHandler(self._log)
        self._app.topics.process_events.listen(_STATUS_TOPIC, self._receive)
        if runner.server is not None:
            runner.server.connection_log.has_times = True

    def stop(self) -> None:
        """Undo `start`; a shutdown hook."""
        if self._find_runner().hooks.status is not self:
            return
        self._app.topics.process_events.unlisten(_STATUS_TOPIC)  # an answer after "gone" would show the process again
        self._publish("gone", 1)
        logger.removeHandler(self._log)

    @property
    def _process(self) -> str:
        return self._app.topics.codec.origin

    def add_page(self, conn: Connection, *, can_disconnect: bool) -> None:
        """Send a page snapshots from now on."""
        self._pages[conn] = can_disconnect
        if not self._is_feeding:
            self._app.start_soon(self._feed)
            self._is_feeding = True

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
                self._send(rates, await self._own_report())
                # A busy process needs a pause, longer than a report is used again: uvloop can wake a task 1 ms early.
                await anyio.sleep(max(0.6 * INTERVAL, due - monotonic()))
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

    def _publish(self, kind: str, number: int, **values: Any) -> LazyCoroutine[None]:
        """Send an event to all other processes."""
        event = {"status": kind, "number": number, **values}
        return self._app.topics.process_events.publish(_STATUS_TOPIC, event)

    def _send(self, rates: RateMeter, own: Report) -> None:
        now = monotonic()
        self._reports = {one: found for one, found in self._reports.items() if now - found[1] < _KEPT_SECONDS}
        reports = {self._process: own}
        reports |= {one: found[0] for one, found in self._reports.items()}
        rates.update(reports)
        late = {one: now - at for one, (_, at) in self._reports.items() if now - at > _LATE_SECONDS}
        snapshot = snapshot_of(reports, rates, late)
        readers = [page for page in self._pages if page.buffered < _MAX_BUFFERED]
        for can_disconnect in {self._pages[page] for page in readers}:
            text = json.dumps({**snapshot, "can_disconnect": can_disconnect}, separators=(",", ":"), allow_nan=False)
            broadcast([page for page in readers if self._pages[page] is can_disconnect], text)

    async def _own_report(self) -> Report:
        """Return the report of this process, for a while the same: several processes can ask."""
        async with self._making:
            made = self._made
            if made is None or monotonic() - made.at >= INTERVAL / 2:
                runner = self._find_runner()
                made = await make_report(
                    runner.worker, runner.server, runner.stats_in_turns, self._app.topics, self._log
                )
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
            self._answer_soon(process, number)
        elif kind == "report":
            self._take_report(process, number, event)
        elif kind == "gone":
            self._reports.pop(process, None)
        elif kind == "disconnect":
            if event.get("process") == self._process and self.can_disconnect:
                self._disconnect_here(number, str(event.get("by"))[:MAX_TEXT])
        else:
            raise EnvelopeError("its event is not one that processes send about their status")

    def _answer_soon(self, process: str, number: int) -> None:
        if process in self._asking or len(self._asking) < _MAX_PROCESSES:
            self._asking[process] = number
        if not self._is_answering:
            with suppress(ConfigurationError):  # the App has drained
                self._app.start_soon(self._answer)
                self._is_answering = True

    async def _answer(self) -> None:
        """Send a report to the processes that wait for one."""
        try:
            while self._asking:
                report = encode_report(await self._own_report())
                asking, self._asking = self._asking, {}
                for process, number in asking.items():
                    answer = {"status": "report", "number": number, "version": __version__, "report": report}
                    self._app.topics.process_events.publish(f"{_STATUS_TOPIC}:{process}", answer)
        finally:
            self._is_answering = False

    def _take_report(self, process: str, number: int, event: Mapping[str, Any]) -> None:
        if not self._is_feeding or not self._number - _LAST_QUESTIONS < number <= self._number:
            return  # it is late
        if process not in self._reports and len(self._reports) >= _MAX_PROCESSES:
            return
        try:
            self._reports[process] = decode_report(event.get("report")), monotonic()
        except EnvelopeError:
            if event.get("version") == __version__:
                raise
            return  # of a version with other numbers, during an upgrade
        self._awaited.discard(process)
        if not self._awaited:
            self._all_answered.set()

    # -- actions -----------------------------------------------------------------------------------------------------

    async def act(self, page: Connection, action: dict[str, Any]) -> str:
        """Do what the user of a page asks for; return a text for the page.

        Raises:
            ValueError: the action is invalid or not allowed; the text is for the page.
        """
        if not self._pages.get(page):
            raise ValueError("this page is for reading only")
        kind, by = action.get("action"), name_of(page, self._app.topics) or "a user without a key"
        if kind == "disconnect_user":
            return await self._disconnect_user(action.get("user"), by)
        if kind == "disconnect":
            return await self._disconnect_connection(action.get("process"), action.get("connection"), by)
        raise ValueError("there is no such action")

    async def _disconnect_user(self, key: Any, by: str) -> str:
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

    async def _disconnect_connection(self, process: Any, number: Any, by: str) -> str:
        if type(number) is not int or not 0 < number <= _MAX_NUMBER or not isinstance(process, str):
            raise ValueError("there is no such connection")
        if process == self._process:
            if not self._disconnect_here(number, by):
                raise ValueError("the connection has ended already")
            return f"The connection {number} is disconnected."
        if process not in self._reports:
            raise ValueError("the process of the connection has ended")
        try:
            await self._publish("disconnect", number, process=process, by=by)
        except (BrokerUnavailable, OutcomeUnknown):
            raise ValueError("the broker is not available, so the connection may be left") from None
        return f"The connection {number} is being disconnected."

    def _disconnect_here(self, number: int, by: str) -> bool:
        """Close a connection of this process; return whether it is open."""
        server = self._find_runner().server
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
