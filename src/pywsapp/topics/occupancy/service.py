"""Occupancy in one process: its topics and users, the events over the broker, and the calls of the program."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
import anyio.lowlevel

from pywsapp._log_fields import log_fields
from pywsapp._trace_hooks import TraceHooks
from pywsapp.brokers.envelope import Envelope
from pywsapp.options import Options
from pywsapp.topics.codec import EnvelopeCodec
from pywsapp.topics.listeners import Listeners, TopicListeners
from pywsapp.topics.names import is_name
from pywsapp.topics.occupancy.changes import (
    REPORTED_TOPIC,
    REPORTERS_TOPIC,
    Change,
    Kind,
    Subject,
    events_of,
    parse_event,
)
from pywsapp.topics.occupancy.view import OccupancyView
from pywsapp.topics.presence.events import MAX_KEY, MAX_NUMBER
from pywsapp.topics.presence.service import PresenceService
from pywsapp.topics.presence.topic_presence import PresenceDiff

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp.brokers.relay import Relay
    from pywsapp.topics.topic import Topic
    from pywsapp.topics.users.service import UserService

logger = logging.getLogger("pywsapp")

#: Seconds between two looks at what is due.
_TICK_SECONDS = 0.1
#: Changes that are reported before other tasks get their turn.
_BATCH = 200


TopicHookT = TypeVar("TopicHookT", bound="Callable[[Topic], Any]")
UserHookT = TypeVar("UserHookT", bound=Callable[[str], Any])


class Reports(Protocol):
    """A receiver of the changes that this process reports, beside the functions of a program: a webhook.

    Attributes:
        trace_hooks: traces it; None without `pywsapp.telemetry`.
    """

    trace_hooks: TraceHooks | None

    def covers(self, kind: Kind, name: str | None = None) -> bool:
        """Return whether changes of a topic, or of all users, are wanted; for a topic without a name, of any topic."""

    def add(self, change: Change) -> None:
        """Queue a change. Never blocks."""

    async def run(self) -> None:
        """Work until cancelled."""

    async def flush(self) -> None:
        """Wait until everything is done that can be done; return after a bounded time."""


class OccupancyService:
    """Reports topics and users that come and go, in one process of the cluster. The topic registry creates it.

    Args:
        codec: encodes events.
        topic: returns the topic of a name.
        presence: carries what is present in each process.
        users: knows the users of this process.
        options: the delay.

    Attributes:
        occupied: the functions of `App.on_occupied`.
        vacated: the functions of `App.on_vacated`.
        online: the functions of `App.on_user_online`.
        offline: the functions of `App.on_user_offline`.
    """

    def __init__(
        self,
        codec: EnvelopeCodec,
        topic: Callable[[str], Topic],
        presence: PresenceService,
        users: UserService,
        options: Options,
    ) -> None:
        self.occupied = TopicListeners("on_occupied", "topics")
        self.vacated = TopicListeners("on_vacated", "topics")
        self.online = Listeners("on_user_online", "users", "user")
        self.offline = Listeners("on_user_offline", "users", "user")
        self._all = (self.occupied, self.vacated, self.online, self.offline)
        self._reports: list[Reports] = []
        self._codec = codec
        self._topic = topic
        self._presence = presence
        self._users = users
        self._delay = options.absence_delay
        self._kinds: list[Kind] = []
        self._view: OccupancyView | None = None  # while the app runs
        self._relay: Relay | None = None
        self._is_finished = False
        self._left_out = 0

    @property
    def is_used(self) -> bool:
        """Whether topics or users are followed."""
        return bool(self._kinds)

    @property
    def skipped(self) -> int:
        """The number of calls that were skipped because the queue of an async function was full."""
        return sum(listeners.skipped for listeners in self._all)

    # -- what the app registers --------------------------------------------------------------------------------------

    def on_occupied(self, pattern: str) -> Callable[[TopicHookT], TopicHookT]:
        """See `App.on_occupied`."""
        decorate = self.occupied.decorator(pattern)
        self._watch(Kind.TOPIC)
        return decorate

    def on_vacated(self, pattern: str) -> Callable[[TopicHookT], TopicHookT]:
        """See `App.on_vacated`."""
        decorate = self.vacated.decorator(pattern)
        self._watch(Kind.TOPIC)
        return decorate

    def on_user_online(self, function: UserHookT) -> UserHookT:
        """See `App.on_user_online`."""
        self.online.register(function)
        self._watch(Kind.USER)
        return function

    def on_user_offline(self, function: UserHookT) -> UserHookT:
        """See `App.on_user_offline`."""
        self.offline.register(function)
        self._watch(Kind.USER)
        return function

    def add_reports(self, reports: Reports) -> None:
        """Report changes to an object as well; call it before the app runs."""
        self._reports.append(reports)
        for kind in Kind:
            if reports.covers(kind):
                self._watch(kind)

    def _watch(self, kind: Kind) -> None:
        """Follow the topics or the users of all processes."""
        if not self._kinds:
            self._presence.watch_internal(REPORTERS_TOPIC, self._note_reporters)
        if kind not in self._kinds:
            self._kinds.append(kind)
            self._presence.watch_internal(kind.presence_topic, partial(self._note, kind))
        if kind is Kind.USER:
            self._users.watch(self._user_came, self._user_went)

    def include(self, other: OccupancyService) -> None:
        """Report to the functions and objects of another app as well; neither of the two runs."""
        for kind in other._kinds:
            self._watch(kind)
        self.occupied.include(other.occupied)
        self.vacated.include(other.vacated)
        self.online.include(other.online)
        self.offline.include(other.offline)
        self._reports += other._reports

    # -- this process ------------------------------------------------------------------------------------------------

    def opened(self, name: str) -> None:
        """Note that a topic has its first subscriber in this process."""
        if self._kinds and self._view is not None and self._covers(name):
            self._presence.track(Kind.TOPIC.presence_topic, name, name, None)

    def closed(self, name: str) -> None:
        """Note that a topic has no subscriber in this process any more."""
        if self._kinds and self._view is not None:
            self._presence.untrack(Kind.TOPIC.presence_topic, name)

    def _covers(self, name: str) -> bool:
        if self.occupied.covers(name) or self.vacated.covers(name):
            return True
        return any(reports.covers(Kind.TOPIC, name) for reports in self._reports)

    def _user_came(self, key: str) -> None:
        if len(key) <= MAX_KEY:
            self._presence.track(Kind.USER.presence_topic, key, key, None)
            return
        self._left_out += 1
        if self._left_out & (self._left_out - 1) == 0:  # at 1, 2, 4, 8, ...
            logger.warning(
                "a user is not reported as online, because the key has more than %d characters: %r... (%d so far)",
                MAX_KEY,
                key[:40],
                self._left_out,
                extra=log_fields("presence.key_too_long", count=self._left_out),
            )

    def _user_went(self, key: str) -> None:
        self._presence.untrack(Kind.USER.presence_topic, key)

    # -- all processes -----------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Handle a new connection to the broker."""
        if self._view is not None:
            self._view.connected()

    def receive(self, envelope: Envelope) -> None:
        """Handle an event of another process.

        Raises:
            EnvelopeError: the event is invalid.
        """
        for change in parse_event(envelope.event or {}):
            if self._view is not None:
                self._view.note_reported(change, time.monotonic())

    def _note(self, kind: Kind, diff: PresenceDiff) -> None:
        if self._view is not None:
            now = time.monotonic()
            for name in diff.left:
                self._view.note(Subject(kind, name), is_present=False, now=now)
            for name in diff.joined:
                if kind is Kind.USER or is_name(name):
                    self._view.note(Subject(kind, name), is_present=True, now=now)

    def _note_reporters(self, diff: PresenceDiff) -> None:
        if self._view is not None:
            for process in diff.left:
                self._view.note_reporter(process, None)
            for process, number in {**diff.joined, **{key: meta for key, (_, meta) in diff.changed.items()}}.items():
                is_valid = type(number) in (int, float) and 0 <= number <= MAX_NUMBER
                self._view.note_reporter(process, number if is_valid else None)

    def _register(self, number: float | None) -> None:
        process = self._codec.origin
        if number is None:
            self._presence.untrack(REPORTERS_TOPIC, process)
        else:
            self._presence.track(REPORTERS_TOPIC, process, process, number)

    def _elsewhere(self) -> Iterable[Subject]:
        for kind in self._kinds:
            for name in self._presence.elsewhere(kind.presence_topic):
                yield Subject(kind, name)

    # -- reporting ---------------------------------------------------------------------------------------------------

    async def _run(self, view: OccupancyView) -> None:
        while not self._is_finished:
            try:
                now, is_connected = time.monotonic(), self._relay is None or self._relay.connection is not None
                if view.tick(now, time.time(), is_connected=is_connected):
                    self._publish(view.take_for_newcomers())
                    await self._report_due(view, now)
            except Exception:
                logger.exception("reporting topics and users failed", extra=log_fields("presence.failed"))
            await anyio.sleep(_TICK_SECONDS)

    async def _report_due(self, view: OccupancyView, now: float) -> None:
        while changes := view.take(now, _BATCH):
            for change in changes:
                self._report(change)
            self._publish(changes)
            await anyio.lowlevel.checkpoint()

    def _publish(self, changes: Iterable[Change]) -> None:
        if self._relay is not None:
            for event in events_of(changes):
                self._relay.publish_event(REPORTED_TOPIC, self._codec.encode_event(REPORTED_TOPIC, event))

    def _report(self, change: Change) -> None:
        kind, name = change.subject
        for reports in self._reports:
            reports.add(change)
        if kind is Kind.TOPIC:
            listeners = self.occupied if change.is_present else self.vacated
            listeners.call_without_event(self._topic(name))
        else:
            (self.online if change.is_present else self.offline).call_all(name)

    # -- running -----------------------------------------------------------------------------------------------------

    def prepare(self, relay: Relay | None, hooks: TraceHooks | None = None) -> None:
        """Prepare for a run.

        Args:
            relay: the relay to the broker, which does not run yet; None without a broker.
            hooks: traces what the objects of `add_reports` do; None without traces.
        """
        self._relay, self._is_finished = relay, False
        for reports in self._reports:
            reports.trace_hooks = hooks
        if self._kinds and relay is not None:
            relay.subscribe(REPORTED_TOPIC)

    def start(self, tasks: TaskGroup, topics: Iterable[Topic]) -> None:
        """Start; the relay has tried to connect by now.

        Args:
            tasks: the task group of the app's topics.
            topics: those that have subscribers in this process already.
        """
        for listeners in self._all:
            listeners.start(tasks)
        if not self._kinds:
            return
        for name in (REPORTERS_TOPIC, *(kind.presence_topic for kind in self._kinds)):
            self._presence.open_internal(name)
        self._view = OccupancyView(
            self._codec.origin,
            self._delay,
            self._register,
            self._elsewhere,
            time.monotonic(),
            is_alone=self._relay is None,
        )
        for topic in topics:
            self.opened(topic.name)
        tasks.start_soon(self._run, self._view)
        for reports in self._reports:
            tasks.start_soon(reports.run)

    async def finish(self) -> None:
        """Report the last changes, or hand over to another process; call it when all connections have ended.

        It waits for functions of the program that run, and for webhooks. The caller limits the time.
        """
        view = self._view
        if view is None:
            return
        self._is_finished = True
        self._presence.tick()
        if view.is_last(time.monotonic()):
            await self._report_due(view, float("inf"))
        async with anyio.create_task_group() as tasks:
            for waiting in (*(listeners.until_idle for listeners in self._all), *(one.flush for one in self._reports)):
                tasks.start_soon(waiting)

    def stop(self) -> None:
        """Stop; the tasks end with their task group."""
        for listeners in self._all:
            listeners.stop()
        if self._view is not None:
            for name in (REPORTERS_TOPIC, *(kind.presence_topic for kind in self._kinds)):
                self._presence.close(name)
        self._view = self._relay = None
