"""One connection of a client of topics, from `connect` to its end.

One task receives. A second one sends, once the server has accepted the client: the subscriptions with their positions,
and then the requests that wait. So a program whose server reads slowly queues no more than `Options.high_water` allows.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._connecting.reconnecting import Clock
from pywsapp._connecting.topics.message_queue import MessageQueue
from pywsapp._connecting.topics.messages import BrokenProtocol, Fields, check, data_of, error_of, is_seconds, read
from pywsapp._connecting.topics.requests import RequestQueue, WaitingRequest
from pywsapp._connecting.topics.rules import SPREAD, Order
from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp.close_codes import CloseCode, ComeBack
from pywsapp.exceptions import CallError, ConnectionClosed, QueueFull

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._connecting.arguments import ConnectArguments
    from pywsapp._connecting.inbox import LoopConnection
    from pywsapp._connecting.topics.subscription import TopicSubscription
    from pywsapp.codecs.base import Codec

logger = logging.getLogger("pywsapp")

#: Returns the token for the next connection, or for one whose token expires; None for none.
GetToken = Callable[[], Awaitable[str | None]]

#: The close code for a server that breaks the protocol; the browser client has the same.
BROKEN_PROTOCOL = 4002
#: The server could not do it now; a client repeats it.
_REPEATED = frozenset({"unavailable", "outcome_unknown"})
#: The position of a subscription is not valid any more.
_FORGOTTEN = frozenset({"invalid_position", "no_history"})
#: Seconds before a request is repeated, if the server does not say it, and at most.
_REPEAT_AFTER, _MAX_REPEAT_AFTER = 1.0, 300.0


@dataclass(repr=False)  # it has secrets
class ClientState:
    """The state that a client keeps over all of its connections.

    Args:
        arguments: where to connect to, and how.
        codec: the codec of the protocol.
        get_token: returns the token.
        requests: the requests of the program that wait.
        clock: time and chance.

    Attributes:
        subscriptions: the subscriptions by their topics.
        direct: the queues of what the server sends to this client alone.
        ids: counts the requests.
        secret: with it the server knows the keys of messages after a reconnect.
    """

    arguments: ConnectArguments
    codec: Codec
    get_token: GetToken
    requests: RequestQueue
    clock: Clock
    subscriptions: dict[str, TopicSubscription[Any]] = field(default_factory=dict)
    direct: set[MessageQueue[Any]] = field(default_factory=set)
    ids: count[int] = field(default_factory=lambda: count(1))
    secret: str = field(default_factory=lambda: secrets.token_hex(16))

    def end(self, closed: ConnectionClosed, failure: Exception | None) -> None:
        """End everything that waits.

        Args:
            closed: the exception for requests.
            failure: the exception for subscriptions; None if the program has closed the client.
        """
        self.requests.end(closed)
        for subscription in self.subscriptions.values():
            subscription._end(failure)
        self.subscriptions.clear()
        for queue in self.direct:
            queue.end(failure)


class TopicsConnection:
    """One connection.

    Args:
        client: what the client keeps.
        conn: the connection.
        token: the token of the user.
        on_connected: called with the id of the client and the key of the user, once the server has accepted the client.

    Attributes:
        is_connected: whether the server has accepted the client, and the connection has not ended.
        failure: why the client is closed permanently.
        order: what the server has ordered for the end of the connection.
        reason: why the connection has ended; None if only the close code says it.
    """

    def __init__(
        self,
        client: ClientState,
        conn: LoopConnection[str | bytes],
        token: str | None,
        on_connected: Callable[[str, str | None], None],
    ) -> None:
        self.is_connected = False
        self.failure: Exception | None = None
        self.order: Order | None = None
        self.reason: Exception | None = None
        self._client = client
        self._conn = conn
        self._token = token
        self._on_connected = on_connected
        self._tasks: TaskGroup
        self._must_leave = False
        self._replies: dict[int, Callable[[Fields], None]] = {}
        self._leaving: dict[str, int] = {}  # the last `unsubscribe` for a topic, until its reply
        self._pause = 0.0  # seconds that the server wants the requests to wait
        self._has_reported = False
        self._is_refreshing = False

    # -- the life of the connection ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Use the connection until it has ended, or must be left."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._expect_connected)
                await self._receive_all()
                tasks.cancel_scope.cancel()
        finally:
            self.is_connected = False
            for subscription in self._client.subscriptions.values():
                subscription._disconnected()

    async def _receive_all(self) -> None:
        try:
            subprotocol = self._client.arguments.subprotocols[0]
            check(self._conn.subprotocol == subprotocol, f"it does not speak {subprotocol}")
            fields = {"type": "connect", "session": self._client.secret}
            self._request(fields | ({} if self._token is None else {"token": self._token}), self._connected)
            async for message in self._conn:
                self._receive(read(self._client.codec, message))
                if self._must_leave:
                    return
        except BrokenProtocol as exc:
            text = f"the server broke the protocol of topics: {exc}"
            self.failure = ConnectionClosed(text, BROKEN_PROTOCOL)
            self._conn.close(BROKEN_PROTOCOL, "the server broke the protocol")

    async def _expect_connected(self) -> None:
        """Abort a connection whose server does not answer `connect` in time."""
        seconds = self._client.arguments.options.handshake_timeout
        await anyio.sleep(seconds)
        if not self.is_connected:
            self.reason = ConnectionClosed(f"the server did not answer `connect` within {seconds:g} seconds")
            self._conn.abort()

    def _connected(self, fields: Fields) -> None:
        """Handle the reply to `connect`."""
        error = error_of(fields)
        if error is not None:
            self._must_leave, self.reason = True, error
            if error.code == "unauthenticated":
                self.order = Order(ComeBack.WITH_CREDENTIALS)
            elif error.code in _REPEATED or error.code == "internal_error":
                self.order = Order(ComeBack.LATER, error.retry_after or 0)
            else:
                self.failure = error
            return
        name, user = fields.get("client"), fields.get("user")
        check(isinstance(name, str), "`client` is no text")
        check(user is None or isinstance(user, str), "`user` is no text")
        self.is_connected = True
        self._on_connected(str(name), user)
        self._tasks.start_soon(self._send_all)

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _send_all(self) -> None:
        """Send the subscriptions, and then each request that waits, as fast as the server reads."""
        for subscription in list(self._client.subscriptions.values()):
            if not subscription._is_sent and self._is_current(subscription):
                await self.join(subscription)
        requests = self._client.requests
        while True:
            await requests.wait()
            if self._pause:
                pause, self._pause = self._pause, 0.0
                await self._client.clock.sleep(pause)
            request = requests.take()
            if request is not None:
                self._replies[request.id] = functools.partial(self._answered, request)
                await self._conn.send(request.data)

    def _request(self, fields: Fields, on_reply: Callable[[Fields], None]) -> Awaitable[None]:
        """Send a request of the client itself."""
        request_id = next(self._client.ids)
        self._replies[request_id] = on_reply
        return self._conn.send(self._client.codec.encode(fields | {"id": request_id}))

    def forget_reply(self, request_id: int) -> None:
        """Ignore the reply to a request."""
        self._replies.pop(request_id, None)

    def _answered(self, request: WaitingRequest, fields: Fields) -> None:
        error = error_of(fields)
        if error is None:
            request.resolve(fields)
        elif not request.can_repeat or error.code not in _REPEATED:
            request.fail(error)
        else:  # its key makes repeating safe
            self._pause = self._repeat_after(error)
            self._client.requests.repeat(request)

    def _repeat_after(self, error: CallError) -> float:
        """Return the seconds after which to repeat a request that failed, with a random part."""
        seconds = _REPEAT_AFTER if error.retry_after is None else min(error.retry_after, _MAX_REPEAT_AFTER)
        return seconds * self._client.clock.uniform(1, 1.5)

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def _is_current(self, subscription: TopicSubscription[Any]) -> bool:
        return self._client.subscriptions.get(subscription.topic) is subscription

    def join(self, subscription: TopicSubscription[Any]) -> Awaitable[None]:
        """Send the request of a subscription."""
        return self._request(subscription._request(), functools.partial(self._joined, subscription))

    def _joined(self, subscription: TopicSubscription[Any], fields: Fields) -> None:
        """Handle the reply to `subscribe`."""
        if not self._is_current(subscription):
            return
        error = error_of(fields)
        if error is None:
            subscription._accepted(fields)
        elif error.code in _REPEATED:
            self._tasks.start_soon(self._join_later, subscription, self._repeat_after(error))
        elif error.code in _FORGOTTEN and subscription._forget_position():
            if self._is_current(subscription):  # its queue had space for the note
                self.join(subscription)
        else:
            self._remove(subscription, error)

    async def _join_later(self, subscription: TopicSubscription[Any], seconds: float) -> None:
        await self._client.clock.sleep(seconds)
        if self._is_current(subscription):
            self.join(subscription)

    def _remove(self, subscription: TopicSubscription[Any], error: CallError) -> None:
        """Note that the server has refused or ended a subscription."""
        del self._client.subscriptions[subscription.topic]
        subscription._end(error)

    def leave(self, topic: str) -> None:
        """Unsubscribe from a topic; its messages are ignored from now on."""
        request_id = next(self._client.ids)
        self._leaving[topic] = request_id
        self._replies[request_id] = functools.partial(self._left, topic, request_id)
        self._conn.send(self._client.codec.encode({"type": "unsubscribe", "topic": topic, "id": request_id}))

    def _left(self, topic: str, request_id: int, fields: Fields) -> None:
        if self._leaving.get(topic) == request_id:
            del self._leaving[topic]
        error = error_of(fields)
        if error is not None and error.code != "not_subscribed":
            self.reason = error
            self._conn.close(CloseCode.GOING_AWAY)  # the next connection has no such subscription

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _receive(self, fields: Fields) -> None:
        """Handle a message of the server.

        Raises:
            BrokenProtocol: it is not one of the protocol.
        """
        kind, number, error = fields["type"], fields.get("id"), error_of(fields)
        if number is not None and (kind == "ok" or error is not None):
            check(type(number) is int, "`id` is no integer")
            on_reply = self._replies.pop(number, None)  # None for a reply that comes too late
            if on_reply is not None:
                on_reply(fields)
        elif error is not None:
            self._report(error)
        elif kind == "expiring":
            if not self._is_refreshing:
                self._is_refreshing = True
                self._tasks.start_soon(self._refresh)
        elif kind == "disconnect":
            self.order, self.reason = _order_in(fields)
        elif kind == "message" and "topic" not in fields:
            self._receive_direct(data_of(fields))
        elif kind in ("message", "lost", "presence", "unsubscribed"):
            topic = fields.get("topic")
            check(isinstance(topic, str), "`topic` is no text")
            self._receive_of_topic(str(topic), fields)

    def _receive_direct(self, data: Any) -> None:
        for queue in list(self._client.direct):
            if queue.is_full:
                self._client.direct.discard(queue)
                queue.end(QueueFull("too many messages to this client wait: the program is too slow"))
            else:
                queue.append(data)

    def _receive_of_topic(self, topic: str, fields: Fields) -> None:
        subscription = None if topic in self._leaving else self._client.subscriptions.get(topic)
        if subscription is None:
            return
        if fields["type"] != "unsubscribed":
            subscription._receive(fields)
            return
        error = error_of(fields | {"type": "error"})
        assert error is not None
        self._remove(subscription, error)

    def _report(self, error: CallError) -> None:
        """Log an error that belongs to no request; a server cannot fill the log."""
        level = logging.DEBUG if self._has_reported else logging.WARNING
        self._has_reported = True
        target, text = self._client.arguments.target, one_line(str(error))
        logger.log(
            level,
            "%s reports an error: %s",
            target,
            text,
            extra=log_fields("client.error_received", url=str(target), error=text),
        )

    # -- tokens ------------------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Send a new token."""
        arguments = self._client.arguments
        try:
            with anyio.fail_after(arguments.options.handshake_timeout):
                token = await self._client.get_token()
        except OSError as exc:
            self._note_token_failure("getting a new token for %s failed: %s", str(exc))
        except Exception as exc:
            self.failure = exc
            self._conn.close()
        else:
            if token is not None:
                self._request({"type": "refresh", "token": token}, self._refreshed)
        finally:
            self._is_refreshing = False

    def _refreshed(self, fields: Fields) -> None:
        error = error_of(fields)
        if error is not None:
            self._note_token_failure("%s refuses a new token: %s", str(error))

    def _note_token_failure(self, sentence: str, error: str) -> None:
        target, text = self._client.arguments.target, one_line(error)
        logger.warning(
            sentence, target, text, extra=log_fields("client.token_not_renewed", url=str(target), error=text)
        )


def _order_in(fields: Fields) -> tuple[Order, ConnectionClosed]:
    """Return what a `disconnect` message orders, and the reason for the program."""
    code, text, reconnect = fields.get("code"), fields.get("reason"), fields.get("reconnect")
    check(reconnect is False or is_seconds(reconnect), "`reconnect` is neither false nor a number of seconds")
    if reconnect is False:
        order = Order(ComeBack.NEVER)
    elif code == CloseCode.UNAUTHENTICATED:
        order = Order(ComeBack.WITH_CREDENTIALS)
    else:
        order = Order(ComeBack.LATER, reconnect or 0, SPREAD)
    code, text = code if type(code) is int else None, text if isinstance(text, str) else ""
    described = f"the server has disconnected this client: {code} {one_line(text)}".rstrip()
    return order, ConnectionClosed(described, code, text)
