"""An event stream as a connection: a subscriber of one topic whose frames are server-sent events.

A stream has the lifecycle of a WebSocket, so it has the same outbox, limits, user and drain, and costs no task. Its
client sends nothing, and no component belongs to it.

Theory

Two things happen before the head of the response is sent, since a refusal is a response too: the stream counts against
the limits of connections, and `authorize` is asked. So the connection exists before it is open, and `close` only marks
it then. `EventStreamLifecycle.ask` asks, and the server opens the stream. `reauthorize` of a user reaches open
connections only, so `authorize` is asked once more when the stream is open.

A topic without a history is then subscribed at once. A topic with one is recovered from the position of the client, in
a task that ends when the client has what it has missed. A client that has missed nothing gets the position alone. So it
misses nothing either if it comes back before the first message.

`authorize` decides as follows. If the client has chosen a part of the topic's name, by the path, it must allow the
topic, as for `Connection.may`. Otherwise the program has named the topic, so it must not refuse it. Without an
`authorize` the route itself is the permission.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pywsapp._lifecycle.stream import StreamLifecycle
from pywsapp._log_fields import log_fields
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyCoroutine
from pywsapp._protocol.event_stream import EventFormat, EventStream, id_only
from pywsapp._protocol.traffic import OTHER_TRAFFIC, Traffic
from pywsapp.close_codes import CloseCode, cut_reason
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import BrokerUnavailable, NotAuthorized, Refuse, TopicError
from pywsapp.http import Response
from pywsapp.options import Options, without_frames

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pywsapp._lifecycle.host import Host
    from pywsapp._topic_actions import TopicAction
    from pywsapp._transports.base import Transport
    from pywsapp.http import Request
    from pywsapp.topics.topic import Topic

_NOT_ALLOWED = "not authorized any more"
logger = logging.getLogger("pywsapp")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """The settings that the streams of one route share.

    Args:
        wire_format: encodes the messages.
        last: how many messages of the history a client without a position gets; None for all.
        keepalive: seconds between two comments.
        retry: seconds after which a client connects again, on average.
        options: the limits; None for those of the server.
    """

    wire_format: EventFormat
    last: int | None
    keepalive: float
    retry: float
    options: Options | None


class Start(NamedTuple):
    """The topic of one stream, and where it begins.

    Args:
        topic: the topic.
        since: the position of the last message that the client has; None if it has none.
        is_chosen: whether the client has chosen a part of the topic's name.
    """

    topic: Topic
    since: str | None
    is_chosen: bool


class EventStreamResponse(Response):
    """The answer to a request for an event stream, which the server continues as a stream.

    Args:
        start: the topic, and where the stream begins.
        settings: the settings of the route.
        headers: further header fields.

    Attributes:
        start: the topic, and where the stream begins.
        settings: the settings of the route.
    """

    __slots__ = ("settings", "start")

    def __init__(self, start: Start, settings: StreamSettings, headers: Iterable[tuple[str, str]]) -> None:
        super().__init__(b"", 200, tuple(headers), content_type="text/event-stream")
        self.start = start
        self.settings = settings


class EventStreamConnection(Connection):
    """The connection of an event stream, as `authorize` and `app.users` see it."""

    __slots__ = ()


class _NoComponent(MessageComponent):
    """The component of all event streams."""

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
        """End a stream that has lost its topic, because `authorize` does not allow it any more."""
        driver: Any = conn._driver
        if driver is not None and driver.is_following:
            conn.close(CloseCode.POLICY_VIOLATION, _NOT_ALLOWED)

    def on_error(self, conn: Connection, exc: Exception) -> None:
        """Log an exception of `authorize`, which refuses the topic."""
        logger.error(
            "an event stream failed for %r",
            conn,
            exc_info=exc,
            extra=log_fields("stream.failed", conn, error=type(exc).__name__),
        )


_COMPONENT = _NoComponent()


class EventStreamLifecycle(StreamLifecycle):
    """One event stream.

    Args:
        response: the answer to its request.
        request: its request.
        transport: moves its bytes.
        options: the limits of the server.
        host: runs its tasks.
        traffic: counts its events, together with those of other streams.

    Attributes:
        response: the answer to its request.
        is_refused: whether the connection was closed before it was open.
        is_following: whether it has its topic, and has got what it has missed.
    """

    __slots__ = ("_has_begun", "_stream", "is_following", "is_refused", "response")

    def __init__(
        self,
        response: EventStreamResponse,
        request: Request,
        transport: Transport,
        options: Options,
        host: Host,
        traffic: Traffic = OTHER_TRAFFIC,
    ) -> None:
        settings = response.settings
        options = without_frames(settings.options or options)
        self._stream = EventStream(settings.wire_format, options, settings.retry)
        self._stream.traffic = traffic
        super().__init__(
            _COMPONENT,
            request,
            self._stream,
            transport,
            options,
            host,
            settings.keepalive,
            None,
            EventStreamConnection,
        )
        self.response = response
        self.fields = response.headers
        self.is_refused = self.is_following = False
        self._has_begun = False

    # -- before it is open -------------------------------------------------------------------------------------------

    def ask(self) -> Awaitable[None] | None:
        """Call `authorize` for the topic of the connection; return what must be awaited, or None.

        Raises:
            Refuse: it may not; with 403. Awaiting the result raises it too.
        """
        return None if self.subscriptions().authorization is None else self._ask()

    async def _ask(self) -> None:
        topic, _, is_chosen = self.response.start
        try:
            if is_chosen:
                actions: tuple[TopicAction, ...] = ("subscribe",) if topic.history is None else ("subscribe", "history")
                for action in actions:
                    if not await self.conn.may(action, topic.name):
                        raise NotAuthorized(action, topic.name)
            else:
                asked = self.ask_subscribe(topic, history=topic.history is not None)
                if asked is not None:
                    await asked
        except NotAuthorized as exc:
            raise Refuse(403, body=str(exc)) from None

    def close(self, code: int, reason: str) -> LazyCoroutine[None]:
        """Close the stream; see `Connection.close`."""
        if self._has_begun:
            return super().close(code, reason)
        self.is_refused = True
        return ALREADY_DONE

    # -- while it is open --------------------------------------------------------------------------------------------

    def begin(self) -> bytes:
        """Open the stream, whose transport was set; return its first bytes, to be sent behind the head."""
        self._has_begun = True
        return self._stream.retry_line()

    def follow(self) -> None:
        """Subscribe to the topic."""
        topic = self.response.start.topic
        if topic.history is None and self.subscriptions().authorization is None:
            topic.add(self.conn)
            self.is_following = True
        else:
            self._start_soon(self._subscribe)

    async def _subscribe(self) -> None:
        conn, topic = self.conn, self.response.start.topic
        try:
            if self.subscriptions().authorization is not None:
                conn.reauthorize()  # a permission can have been taken away before `reauthorize` reached the connection
                await self._ask()
            await (topic.add(conn) if topic.history is None else self._recover())
            self.is_following = True
            if conn.is_open and conn not in topic:
                conn.close(CloseCode.POLICY_VIOLATION, _NOT_ALLOWED)
        except (TopicError, Refuse) as exc:
            conn.close(CloseCode.POLICY_VIOLATION, cut_reason(str(exc)))
        except BrokerUnavailable as exc:
            logger.info(
                "%r cannot recover, and is closed: %s",
                conn,
                exc,
                extra=log_fields("stream.not_recovered", conn, error=str(exc)),
            )
            conn.close(CloseCode.TRY_AGAIN_LATER, "the history cannot be read")
        except Exception:
            logger.exception("an event stream failed for %r", conn, extra=log_fields("stream.failed", conn))
            conn.close(CloseCode.INTERNAL_ERROR, "internal error")

    async def _recover(self) -> None:
        topic, since, _ = self.response.start
        recovery = await topic.recover(self.conn, since, last=self.response.settings.last)
        if not recovery.messages and self.conn in topic:
            self.machine.outbox.add_last(id_only(recovery.position))
