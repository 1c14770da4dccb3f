"""What drives a client of topics: one connection after the other, and what waits for the next one.

A task in the background iterates over the connections of a `Reconnecting`. On each connection it sends `connect`, and
then, in a second task, the subscriptions with their positions, and the requests that wait. The first task receives. A
program that awaits something is woken by it, so an exception of the program never ends in the tasks of the client.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import anyio

from pywsapp._connecting.background import start_in_background
from pywsapp._connecting.reconnecting import Clock, MakeFields, Reconnecting
from pywsapp._connecting.topics.bell import Bell
from pywsapp._connecting.topics.message_queue import MessageQueue
from pywsapp._connecting.topics.messages import BrokenProtocol, Fields, check, data_of, error_of, is_seconds, read
from pywsapp._connecting.topics.requests import RequestQueue, WaitingRequest
from pywsapp._connecting.topics.rules import SPREAD, Order, TopicsRules
from pywsapp._http_text import one_line
from pywsapp.close_codes import CloseCode, ComeBack
from pywsapp.exceptions import CallError, ConfigurationError, ConnectionClosed, QueueFull

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._connecting.arguments import ConnectArguments
    from pywsapp._connecting.arguments import Fields as HeaderFields
    from pywsapp._connecting.inbox import LoopConnection
    from pywsapp._connecting.topics.subscription import TopicSubscription
    from pywsapp.codecs.base import Codec

logger = logging.getLogger("pywsapp")

State = Literal["connecting", "open", "waiting", "closed"]
#: Returns the token for the next connection, or for one whose token expires; None for none.
GetToken = Callable[[], Awaitable[str | None]]

#: The server could not do it now; a client repeats it.
_REPEATED = frozenset({"unavailable", "outcome_unknown"})
#: The close code for a server that breaks the protocol; the browser client has the same.
BROKEN_PROTOCOL = 4002
#: Seconds before a request is repeated, if the server does not say it.
_REPEAT_AFTER = 1.0
#: Seconds after which it is repeated at the latest.
_MAX_REPEAT_AFTER = 300.0


class TopicsDriver:
    """Keeps a client of topics connected.

    Args:
        arguments: where to connect to, and how.
        codec: the codec of the protocol.
        get_token: returns the token.
        make_fields: returns the header fields of each attempt; None for those of the arguments.
        rules: when to connect again.
        requests: the queue of requests.
        clock: time and chance.

    Attributes:
        state: "connecting", "open", "waiting" for the next attempt, or "closed" for good.
        reason: why the client waits or is closed.
        client_id: the public id of the last connection.
        user: the key of the user.
        changed: rings when the state changes.
    """

    def __init__(
        self,
        arguments: ConnectArguments,
        codec: Codec,
        get_token: GetToken,
        make_fields: MakeFields | None,
        rules: TopicsRules,
        requests: RequestQueue,
        clock: Clock,
    ) -> None:
        self.state: State = "connecting"
        self.reason: Exception | None = None
        self.client_id: str | None = None
        self.user: str | None = None
        self.changed = Bell()
        self._arguments = arguments
        self._codec = codec
        self._get_token = get_token
        self._make_fields = make_fields
        self._rules = rules
        self._requests = requests
        self._clock = clock
        self._loop: Reconnecting = Reconnecting(
            arguments, self._prepare, rules, clock._replace(sleep=self._wait_for_attempt)
        )
        self._session = secrets.token_hex(16)  # with it the server knows the keys of messages after a reconnect
        self._token: str | None = None
        self._scope = anyio.CancelScope()
        self._ended = Bell()
        self._hurry = Bell()
        self._has_ended = False
        self._is_closing = False
        self._failure: Exception | None = None  # ends the client
        self._end_reason: Exception | None = None  # of the current connection; None if only its close code says it
        self._conn: LoopConnection[str | bytes] | None = None
        self._tasks: TaskGroup | None = None  # of the current connection
        self._ids = count(1)
        self._replies: dict[int, Callable[[Fields], None]] = {}
        self._subscriptions: dict[str, TopicSubscription[Any]] = {}
        self._leaving: dict[str, int] = {}  # the last `unsubscribe` for a topic, until its reply
        self._has_reported = False  # an error of the current connection
        self._is_refreshing = False
        self._send_pause = 0.0  # seconds that the server wants the requests to wait
        self.direct: set[MessageQueue[Any]] = set()  # of what is sent to this client alone

    # -- the life of the client --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start to connect, and wait until the first connection is open.

        Raises:
            HandshakeError: the server refused the handshake in a way that a repetition does not change.
            OSError: the server cannot be reached, and a limit of `Backoff` is exceeded.
            ConnectionClosed: the server does not want this client.
            Exception: an exception of `get_token`.
        """
        start_in_background(self._run)
        try:
            while self.state != "open":
                if self.state == "closed":
                    raise self.closed() if self.reason is None else self.reason
                await self.changed.wait()
        except BaseException:
            await self.abort()
            raise

    async def close(self) -> None:
        """Close the connection for good, and wait until it has ended."""
        self._is_closing = True
        self._scope.cancel()
        while not self._has_ended:
            await self._ended.wait()

    async def abort(self) -> None:
        """Abort the connection for good; it blocks for a moment only, also in a task that is cancelled."""
        if self._conn is not None:
            self._conn.abort()
        with anyio.CancelScope(shield=True):
            await self.close()

    def hurry(self) -> None:
        """End the pause before the next attempt."""
        self._hurry.ring()

    def closed(self) -> ConnectionClosed:
        """Return the exception for what waits or is tried when the client is closed."""
        reason = self.reason
        if reason is None:
            return ConnectionClosed("the client is closed")
        code, text = (reason.code, reason.reason) if isinstance(reason, ConnectionClosed) else (None, "")
        return ConnectionClosed(f"the client is closed for good: {reason}", code, text)

    async def _run(self) -> None:
        try:
            try:
                with self._scope:
                    async for conn in self._loop:
                        await self._serve(conn)
                    self.reason = self._rules.reason
            finally:
                self._conn = None
                await self._loop.aclose()
        except ConnectionClosed:  # of the loop, if the server wants no further connection
            self.reason = self._failure or self._rules.reason
        except Exception as exc:
            self.reason = exc
        finally:
            self._end()

    def _end(self) -> None:
        if self._is_closing:
            self.reason = None
        self._set("closed", self.reason)
        self._fail_all()
        self._has_ended = True
        self._ended.ring()
        self.changed.ring()

    def _fail_all(self) -> None:
        """End what waits, with the reason of the client."""
        self._requests.end(self.closed())
        failure = None if self.reason is None else self.closed()
        for subscription in self._subscriptions.values():
            subscription._end(failure)
        self._subscriptions.clear()
        for queue in self.direct:
            queue.end(failure)

    def _set(self, state: State, reason: Exception | None) -> None:
        self.reason = reason
        if self.state != state:
            self.state = state
            self.changed.ring()

    async def _wait_for_attempt(self, seconds: float) -> None:
        """Wait before the next attempt; `hurry` ends the pause."""
        self._set("waiting", self._rules.reason)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_pause, tasks)
            await self._clock.sleep(seconds)
            tasks.cancel_scope.cancel()

    async def _end_pause(self, tasks: TaskGroup) -> None:
        await self._hurry.wait()
        tasks.cancel_scope.cancel()

    async def _prepare(self) -> HeaderFields:
        """Get the token for one attempt, and return the header fields."""
        self._set("connecting", self._rules.reason)
        with anyio.fail_after(self._arguments.options.handshake_timeout):
            self._token = await self._get_token()
            return self._arguments.fields if self._make_fields is None else await self._make_fields()

    # -- one connection ----------------------------------------------------------------------------------------------

    async def _serve(self, conn: LoopConnection[str | bytes]) -> None:
        """Use a connection until it has ended, or this side must leave it.

        Raises:
            Exception: the client is closed for good.
        """
        self._conn = conn
        self._end_reason = None
        self._has_reported = False
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._expect_connected, conn)
                await self._receive_all(conn)
                tasks.cancel_scope.cancel()
        finally:
            self._disconnected(conn)
        if self._failure is not None:
            raise self._failure

    async def _receive_all(self, conn: LoopConnection[str | bytes]) -> None:
        try:
            subprotocol = self._arguments.subprotocols[0]
            check(conn.subprotocol == subprotocol, f"it does not speak {subprotocol}")
            fields = {"type": "connect", "session": self._session}
            self._request(fields | ({} if self._token is None else {"token": self._token}), self._connected)
            async for message in conn:
                self._receive(read(self._codec, message))
                if self._conn is None:
                    return
        except BrokenProtocol as exc:
            text = f"the server broke the protocol of topics: {exc}"
            self._failure = ConnectionClosed(text, BROKEN_PROTOCOL)
            conn.close(BROKEN_PROTOCOL, "the server broke the protocol")

    async def _expect_connected(self, conn: LoopConnection[str | bytes]) -> None:
        """Abort a connection whose server does not answer `connect` in time."""
        seconds = self._arguments.options.handshake_timeout
        await anyio.sleep(seconds)
        if self.state != "open":
            self._end_reason = ConnectionClosed(f"the server did not answer `connect` within {seconds:g} seconds")
            conn.abort()

    def _disconnected(self, conn: LoopConnection[str | bytes]) -> None:
        """Forget what belongs to a connection."""
        code, reason = conn.close_code, conn.close_reason
        described = f"the connection has ended with code {code}" + (f" ({one_line(reason)})" if reason else "")
        self._rules.reason = self._end_reason or ConnectionClosed(described, code, reason)
        self._conn = self._tasks = None
        self._replies.clear()
        self._leaving.clear()
        self._send_pause = 0.0
        for subscription in self._subscriptions.values():
            subscription._disconnected()
        if self._failure is not None:
            self._set("closed", self._failure)
            self._fail_all()  # the end of the connection can take time
            return
        self._requests.disconnected(ConnectionClosed("the connection ended before the reply came", code, reason))
        if not self._is_closing:
            self._set("waiting", self._rules.reason)

    def _leave_connection(self, order: Order, reason: Exception) -> None:
        """Leave a connection that the server does not accept."""
        self._rules.order, self._end_reason = order, reason
        self._conn = None

    def _connected(self, fields: Fields) -> None:
        """Handle the reply to `connect`."""
        error = error_of(fields)
        if error is not None:
            if error.code == "unauthenticated":
                self._leave_connection(Order(ComeBack.WITH_CREDENTIALS), error)
            elif error.code in _REPEATED or error.code == "internal_error":
                self._leave_connection(Order(ComeBack.LATER, error.retry_after or 0), error)
            else:
                self._failure, self._conn = error, None
            return
        client, user = fields.get("client"), fields.get("user")
        check(isinstance(client, str), "`client` is no text")
        check(user is None or isinstance(user, str), "`user` is no text")
        self.client_id, self.user = client, user
        self._rules.accepted()
        self._rules.reason = None
        self._set("open", None)
        self._start(self._send_all)

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that ends with the connection."""
        if self._tasks is not None:
            self._tasks.start_soon(work)

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _send_all(self) -> None:
        """Send the subscriptions, and then each request that waits, as fast as the server reads."""
        conn = self._conn
        assert conn is not None
        for subscription in list(self._subscriptions.values()):
            if not subscription._is_sent and self._subscriptions.get(subscription.topic) is subscription:
                await self._join(subscription)
        while True:
            if self._send_pause:
                pause, self._send_pause = self._send_pause, 0.0
                await self._clock.sleep(pause)
            request = await self._requests.next()
            request.is_sent = True
            self._replies[request.id] = functools.partial(self._answered, request)
            await conn.send(request.data)

    def _request(self, fields: Fields, on_reply: Callable[[Fields], None]) -> Awaitable[None]:
        """Send a request of the client itself on the current connection."""
        request_id = next(self._ids)
        assert self._conn is not None
        self._replies[request_id] = on_reply
        return self._conn.send(self._codec.encode(fields | {"id": request_id}))

    async def ask(self, fields: Fields, *, can_repeat: bool, seconds: float | None) -> Fields:
        """Send a request as soon as there is a connection, and return its reply.

        Args:
            fields: the request.
            can_repeat: whether to send it again if the connection is lost before the reply.
            seconds: how long to wait for the reply; None sets no limit.

        Raises:
            CallError: the server has answered with an error.
            CallTimeout: the server did not answer in time.
            ConnectionClosed: the connection was lost, or the client is closed.
            QueueFull: too much waits already.
            TypeError: the codec has no form for a part of it.
        """
        if self.state == "closed":
            raise self.closed()
        request_id = next(self._ids)
        request = WaitingRequest(request_id, self._codec.encode(fields | {"id": request_id}), can_repeat=can_repeat)
        try:
            return await self._requests.ask(request, seconds)
        finally:
            self._replies.pop(request_id, None)

    def copied(self, fields: Fields) -> Fields:
        """Return what the codec makes of fields, so that later changes have no effect.

        Raises:
            TypeError: the codec has no form for a part of it.
            ValueError: a part of it is out of range.
        """
        message = self._codec.encode(fields)
        if isinstance(message, str):
            message.encode()
        copy: Fields = self._codec.decode(message)
        return copy

    def _answered(self, request: WaitingRequest, fields: Fields) -> None:
        error = error_of(fields)
        if error is None:
            request.resolve(fields)
        elif not request.can_repeat or error.code not in _REPEATED:
            request.fail(error)
        elif not request.is_over:  # its key makes repeating safe
            request.is_sent = False
            self._send_pause = self._repeat_after(error)
            self._requests.repeat(request)

    async def _later(self, error: CallError, action: Callable[[], object]) -> None:
        await self._clock.sleep(self._repeat_after(error))
        action()

    def _repeat_after(self, error: CallError) -> float:
        """Return the seconds after which to repeat a request that failed, with a random part."""
        seconds = _REPEAT_AFTER if error.retry_after is None else min(error.retry_after, _MAX_REPEAT_AFTER)
        return seconds * self._clock.uniform(1, 1.5)

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def add(self, subscription: TopicSubscription[Any]) -> None:
        """Subscribe to a topic until `leave`.

        Raises:
            ConfigurationError: there is a subscription to the topic.
            ConnectionClosed: the client is closed.
        """
        topic = subscription.topic
        if self.state == "closed":
            raise self.closed()
        if topic in self._subscriptions:
            raise ConfigurationError(f"this client has a subscription to {topic!r} already; share it in the program")
        self._subscriptions[topic] = subscription
        if self.state == "open" and self._conn is not None:
            self._join(subscription)

    def leave(self, subscription: TopicSubscription[Any], failure: Exception | None = None) -> None:
        """End a subscription.

        Args:
            subscription: the subscription.
            failure: what the program gets after the messages that wait; None ends them without an exception.
        """
        topic = subscription.topic
        if self._subscriptions.get(topic) is not subscription:
            return
        del self._subscriptions[topic]
        if self._conn is not None and subscription._is_sent:
            request_id = next(self._ids)
            self._leaving[topic] = request_id
            self._replies[request_id] = functools.partial(self._left, topic, request_id)
            self._conn.send(self._codec.encode({"type": "unsubscribe", "topic": topic, "id": request_id}))
        subscription._end(failure)

    def _left(self, topic: str, request_id: int, fields: Fields) -> None:
        if self._leaving.get(topic) == request_id:
            del self._leaving[topic]
        error = error_of(fields)
        if error is not None and error.code != "not_subscribed" and self._conn is not None:
            self._conn.close(CloseCode.GOING_AWAY)  # the next connection has no such subscription

    def _join(self, subscription: TopicSubscription[Any]) -> Awaitable[None]:
        return self._request(subscription._request(), functools.partial(self._joined, subscription))

    def _joined(self, subscription: TopicSubscription[Any], fields: Fields) -> None:
        """Handle the reply to `subscribe`."""
        if self._subscriptions.get(subscription.topic) is not subscription:
            return
        error = error_of(fields)
        if error is None:
            subscription._accepted(fields)
        elif error.code in _REPEATED:
            self._start(functools.partial(self._later, error, functools.partial(self._join_again, subscription)))
        elif error.code in ("invalid_position", "no_history") and subscription._forget_position():
            self._join_again(subscription)
        else:
            self._remove(subscription, error)

    def _join_again(self, subscription: TopicSubscription[Any]) -> None:
        if self._subscriptions.get(subscription.topic) is subscription:
            self._join(subscription)

    def _remove(self, subscription: TopicSubscription[Any], error: CallError) -> None:
        """Note that the server has refused or ended a subscription."""
        del self._subscriptions[subscription.topic]
        subscription._end(error)

    async def change_presence(self, subscription: TopicSubscription[Any], fields: Fields) -> None:
        """Send a change of what a subscription tracks; without a connection, the next one has it anyway.

        Raises:
            CallError: the server refuses it.
        """
        if subscription._is_sent:
            try:
                await self.ask(fields, can_repeat=False, seconds=None)
            except ConnectionClosed:
                if self.state == "closed":
                    raise

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _receive(self, fields: Fields) -> None:
        """Handle a message of the server."""
        kind, number, error = fields["type"], fields.get("id"), error_of(fields)
        if number is not None and (kind == "ok" or error is not None):
            check(type(number) is int, "`id` is no integer")
            on_reply = self._replies.pop(number, None)  # None for a reply that comes too late
            if on_reply is not None:
                on_reply(fields)
        elif error is not None:
            self._report(error)
        elif kind == "expiring" and not self._is_refreshing:
            self._is_refreshing = True
            self._start(self._refresh)
        elif kind == "disconnect":
            self._rules.order, self._end_reason = _order_in(fields)
        elif kind == "message" and "topic" not in fields:
            data = data_of(fields)
            for queue in list(self.direct):
                if queue.is_full:
                    self.direct.discard(queue)
                    queue.end(QueueFull("too many messages to this client wait: the program is too slow"))
                else:
                    queue.append(data)
        elif kind in ("message", "lost", "presence", "unsubscribed"):
            topic = fields.get("topic")
            check(isinstance(topic, str), "`topic` is no text")
            self._receive_of_topic(str(topic), fields)

    def _receive_of_topic(self, topic: str, fields: Fields) -> None:
        subscription = None if topic in self._leaving else self._subscriptions.get(topic)
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
        logger.log(level, "%s reports an error: %s", self._arguments.target, one_line(str(error)))

    async def _refresh(self) -> None:
        """Send a new token."""
        try:
            with anyio.fail_after(self._arguments.options.handshake_timeout):
                token = await self._get_token()
        except OSError as exc:
            logger.warning("getting a new token for %s failed: %s", self._arguments.target, one_line(str(exc)))
        except Exception as exc:
            self._failure = exc
            if self._conn is not None:
                self._conn.close()
        else:
            if token is not None and self._conn is not None:
                self._request({"type": "refresh", "token": token}, self._refreshed)
        finally:
            self._is_refreshing = False

    def _refreshed(self, fields: Fields) -> None:
        error = error_of(fields)
        if error is not None:
            logger.warning("%s refuses a new token: %s", self._arguments.target, one_line(str(error)))


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
    code, text = code if isinstance(code, int) else None, text if isinstance(text, str) else ""
    described = f"the server has disconnected this client: {code} {one_line(text)}".rstrip()
    return order, ConnectionClosed(described, code, text)
