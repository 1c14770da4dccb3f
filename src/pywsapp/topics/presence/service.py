"""The presence of an application's topics in one process: events over the broker, time, and watchers."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._event_loop import note_asyncio
from pywsapp._log_fields import log_fields
from pywsapp._outbox.awaitables import LazyAwaitable, LazyCoroutine
from pywsapp.brokers.envelope import Envelope, EnvelopeError
from pywsapp.connection import send_prepared_to_all
from pywsapp.options import Options
from pywsapp.topics.codec import EnvelopeCodec
from pywsapp.topics.listeners import TopicListeners
from pywsapp.topics.presence.events import ALIVE_TOPIC, Event
from pywsapp.topics.presence.topic_presence import PresenceDiff, Present
from pywsapp.topics.presence.view import PresenceView

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp.brokers.relay import Relay
    from pywsapp.connection import Connection
    from pywsapp.topics.delivery import DeliveryForm
    from pywsapp.topics.topic import Topic

logger = logging.getLogger("pywsapp")

#: Seconds between two ticks, which send and report changes.
_TICK_SECONDS = 0.1
#: Seconds that other processes have to answer with their state.
_SETTLE_SECONDS = 0.3


def _ignore(topic: Topic, diff: PresenceDiff) -> None:
    """Do nothing: the watcher of topics whose changes only clients see."""


class PresenceService:
    """Keeps the presence of topics: of those that have watchers, and of reserved ones. The topic registry creates it.

    Args:
        codec: encodes events.
        topic: returns the topic of a name.
        options: the limit of the users of other processes.

    Attributes:
        watchers: the functions of `App.on_presence`, and the patterns of `App.presence`.
    """

    def __init__(self, codec: EnvelopeCodec, topic: Callable[[str], Topic], options: Options) -> None:
        self.watchers = TopicListeners("on_presence", "presence changes", "diff")
        self._codec = codec
        self._topic = topic
        self._view = PresenceView(codec.origin, self._send, self._report, options.max_presence_bytes)
        #: Marks a subscriber as no user any more. This is the view's method, since every unsubscribing calls it.
        self.untrack = self._view.untrack
        self._relay: Relay | None = None
        self._tasks: TaskGroup | None = None
        self._settled: dict[str, anyio.Event] = {}
        self._internal: dict[str, Callable[[PresenceDiff], None]] = {}
        self._viewers: dict[str, dict[Connection, DeliveryForm]] = {}

    @property
    def _is_used(self) -> bool:
        return bool(self.watchers or self._internal)

    def watch_internal(self, name: str, report: Callable[[PresenceDiff], None]) -> None:
        """Keep the presence of a reserved topic, which the caller opens and closes, and report its changes."""
        self._internal[name] = report

    def turn_on(self, pattern: str) -> None:
        """Track the users in the topics of a pattern.

        Raises:
            ConfigurationError: the pattern is not valid, or the app runs already.
        """
        self.watchers.check_not_running("presence")
        self.watchers.add(pattern, _ignore)

    def covers(self, name: str) -> bool:
        """Return whether a topic has presence, which needs a watcher."""
        return self.watchers.covers(name)

    # -- topics ------------------------------------------------------------------------------------------------------

    def open(self, name: str, received: Awaitable[None]) -> None:
        """Begin with a topic, because it has its first subscriber.

        Args:
            name: of a topic with presence.
            received: awaited before the other processes are asked for their users: it is done when the broker delivers
                the topic's messages.
        """
        self._view.open(name, settled=self._relay is None)
        if self._relay is not None and self._tasks is not None:
            settled = self._settled[name] = anyio.Event()
            note_asyncio()
            self._tasks.start_soon(self._settle, name, received, settled)

    @property
    def present_here(self) -> int:
        """The users that are present by connections of this process, once in each topic."""
        return self._view.present_here

    def settled(self, name: str) -> LazyCoroutine[None] | None:
        """Return what waits until the users of a topic are known; None if the service does not wait for them."""
        settled = self._settled.get(name)
        return None if settled is None else LazyAwaitable(settled.wait)

    async def _settle(self, name: str, received: Awaitable[None], settled: anyio.Event) -> None:
        try:
            await received
            self._view.ask(name)
            await anyio.sleep(_SETTLE_SECONDS)
            if self._settled.get(name) is settled:
                self._view.settle(name)
        finally:  # also when the app stops meanwhile
            settled.set()

    def close(self, name: str) -> None:
        """End with a topic, because its last subscriber has unsubscribed."""
        self._view.close(name)
        self._settled.pop(name, None)

    def open_internal(self, name: str) -> None:
        """Begin with a reserved topic, whose changes are reported from now on, also those of other processes."""
        self._view.open(name, settled=True)
        self._view.ask(name)

    def elsewhere(self, name: str) -> set[str]:
        """Return the keys of the users of a topic in other processes."""
        return self._view.elsewhere(name)

    def track(self, name: str, conn: Hashable, key: str, meta: Any) -> None:
        """Mark a subscriber as a user, see `Topic.track`.

        Raises:
            TopicError: the key or the meta is invalid.
        """
        self._view.track(name, conn, key, meta, time.time())

    def present(self, name: str) -> dict[str, Present]:
        """Return the users of a topic by their keys."""
        return self._view.present(name)

    def show(self, name: str, conn: Connection, form: DeliveryForm) -> dict[str, Present]:
        """Return the users of a topic by their keys, and send a subscriber the changes from now on, in its form."""
        present = self._view.present(name)
        self._viewers.setdefault(name, {})[conn] = form
        return present

    def is_shown(self, name: str, conn: Connection) -> bool:
        """Return whether a connection gets the changes."""
        return conn in self._viewers.get(name, ())

    def hide(self, name: str, conn: Connection) -> None:
        """Send a connection no changes any more; nothing if it gets none."""
        viewers = self._viewers.get(name)
        if viewers is not None and viewers.pop(conn, None) is not None and not viewers:
            del self._viewers[name]

    # -- events ------------------------------------------------------------------------------------------------------

    def receive(self, envelope: Envelope) -> None:
        """Handle an event of another process.

        Raises:
            EnvelopeError: the event is invalid.
        """
        left_out = self._view.left_out
        if not self._view.receive(envelope.topic, envelope.origin, envelope.event or {}, time.monotonic()):
            raise EnvelopeError("its event is not one that processes send")
        count = self._view.left_out
        if count.bit_length() > left_out.bit_length():  # at about 1, 2, 4, 8, ...
            logger.warning(
                "presence: left out %d users of other processes so far, there are too many",
                count,
                extra=log_fields("presence.users_left_out", count=count),
            )

    def process_ended(self, process: str) -> None:
        """Handle the end of another process of this machine, which the supervisor has noticed."""
        if self._is_used:
            self._view.end(process)
            # The other workers of this machine learn it from the supervisor, those of other machines from this event.
            if self._relay is not None and not self._relay.broker.is_internal:
                self._send(ALIVE_TOPIC, {"presence": "bye", "of": process})

    def connected(self) -> None:
        """Handle a new connection to the broker."""
        self._view.connected()

    def _send(self, name: str, event: Event) -> None:
        if self._relay is not None:
            self._relay.publish_event(name, self._codec.encode_event(name, event))

    def _report(self, name: str, diff: PresenceDiff) -> None:
        report = self._internal.get(name)
        if report is None:
            self.watchers.call(self._topic(name), diff)
            self._send_to_viewers(name, diff)
        else:
            report(diff)

    def _send_to_viewers(self, name: str, diff: PresenceDiff) -> None:
        viewers = self._viewers.get(name, {})
        for form in dict.fromkeys(viewers.values()):
            try:
                message = form.prepare_presence(name, diff)
            except Exception:  # the program has tracked a user with a meta that has no form in the codec
                logger.exception(
                    "the presence of %r could not be sent", name, extra=log_fields("presence.failed", topic=name)
                )
                continue
            send_prepared_to_all([conn for conn, one in viewers.items() if one is form], message, frozenset())

    # -- running -----------------------------------------------------------------------------------------------------

    def start(self, tasks: TaskGroup, relay: Relay | None) -> None:
        """Start with a broker, if there is one; the service has something to do if there are watchers."""
        self._tasks, self._relay = tasks, relay
        self.watchers.start(tasks)
        if self._is_used and relay is not None:
            for name in (ALIVE_TOPIC, *self._internal):
                relay.subscribe(name)

    def start_ticking(self, tasks: TaskGroup) -> None:
        """Send and report changes from now on; the relay has tried to connect by now."""
        if self._is_used:
            tasks.start_soon(self._tick)

    def announce_end(self) -> None:
        """Send to the other processes that this one shuts down."""
        if self._is_used:
            self._view.stop()

    def stop(self) -> None:
        """Stop; the tasks end with their task group."""
        self._relay = self._tasks = None
        self.watchers.stop()
        for settled in self._settled.values():
            settled.set()
        self._settled.clear()

    def tick(self) -> None:
        """Send and report what has changed."""
        try:
            self._view.tick(time.monotonic())
        except Exception:
            logger.exception("updating presence failed", extra=log_fields("presence.failed"))

    async def _tick(self) -> None:
        while True:
            self.tick()
            await anyio.sleep(_TICK_SECONDS)
