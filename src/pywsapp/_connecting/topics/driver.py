"""The driver of a client of topics: one connection after the other, and the requests that wait for the next one.

A task in the background iterates over the connections of a `Reconnecting`, and uses each of them. A program
that awaits something is woken by it, so an exception of the program never ends in the tasks of the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import anyio

from pywsapp._connecting.background import start_in_background
from pywsapp._connecting.reconnecting import MakeFields, Reconnecting
from pywsapp._connecting.topics.bell import Bell
from pywsapp._connecting.topics.messages import Fields
from pywsapp._connecting.topics.requests import WaitingRequest
from pywsapp._connecting.topics.rules import TopicsRules
from pywsapp._connecting.topics.topics_connection import ClientState, TopicsConnection
from pywsapp._http_text import one_line
from pywsapp.exceptions import ConfigurationError, ConnectionClosed

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._connecting.arguments import Fields as HeaderFields
    from pywsapp._connecting.inbox import LoopConnection
    from pywsapp._connecting.topics.message_queue import MessageQueue
    from pywsapp._connecting.topics.subscription import TopicSubscription

State = Literal["connecting", "open", "waiting", "closed"]


class TopicsDriver:
    """Keeps a client of topics connected.

    Args:
        client: what the client keeps over all connections.
        make_fields: returns the header fields of each attempt; None for those of the arguments.
        rules: when to connect again.

    Attributes:
        state: "connecting", "open", "waiting" for the next attempt, or "closed" permanently.
        reason: why the client waits or is closed.
        client_id: the public id of the last connection.
        user: the key of the user.
        changed: rings when the state changes.
    """

    def __init__(self, client: ClientState, make_fields: MakeFields | None, rules: TopicsRules) -> None:
        self.state: State = "connecting"
        self.reason: Exception | None = None
        self.client_id: str | None = None
        self.user: str | None = None
        self.changed = Bell()
        self._client = client
        self._make_fields = make_fields
        self._rules = rules
        clock = client.clock._replace(sleep=self._wait_for_attempt)
        self._loop: Reconnecting = Reconnecting(client.arguments, self._prepare, rules, clock)
        self._token: str | None = None
        self._current: TopicsConnection | None = None
        self._conn: LoopConnection[str | bytes] | None = None
        self._scope = anyio.CancelScope()
        self._pause_skipped = Bell()
        self._must_skip_pause = False  # the next attempt follows without a pause
        self._ended = Bell()
        self._has_ended = False
        self._is_closing = False
        self._failure: Exception | None = None  # of this side, which ends the client

    # -- for the program ---------------------------------------------------------------------------------------------

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
        """Close the connection permanently, and wait until it has ended."""
        self._is_closing = True
        self._scope.cancel()
        while not self._has_ended:
            await self._ended.wait()

    async def abort(self) -> None:
        """Abort the connection permanently; it blocks for a moment only, also in a task that is cancelled."""
        if self._conn is not None:
            self._conn.abort()
        with anyio.CancelScope(shield=True):
            await self.close()

    def skip_pause(self) -> None:
        """End the pause before the next attempt, also if it has not begun yet."""
        if self.state == "waiting":
            self._must_skip_pause = True
            self._pause_skipped.ring()

    def closed(self) -> ConnectionClosed:
        """Return the exception for what waits or is tried when the client is closed."""
        reason = self.reason
        if reason is None:
            return ConnectionClosed("the client is closed")
        code, text = (reason.code, reason.reason) if isinstance(reason, ConnectionClosed) else (None, "")
        return ConnectionClosed(f"the client is closed permanently: {reason}", code, text)

    def copied(self, fields: Fields) -> Fields:
        """Return what the codec makes of fields, so that later changes have no effect.

        Raises:
            TypeError: the codec has no form for a part of it.
            ValueError: a part of it is out of range.
        """
        message = self._client.codec.encode(fields)
        if isinstance(message, str):
            message.encode()
        copy: Fields = self._client.codec.decode(message)
        return copy

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
        client = self._client
        request_id = next(client.ids)
        request = WaitingRequest(request_id, client.codec.encode(fields | {"id": request_id}), can_repeat=can_repeat)
        try:
            return await client.requests.ask(request, seconds)
        finally:
            if self._current is not None:
                self._current.forget_reply(request_id)

    def add(self, subscription: TopicSubscription[Any]) -> None:
        """Subscribe to a topic until `leave`.

        Raises:
            ConfigurationError: there is a subscription to the topic.
            ConnectionClosed: the client is closed.
        """
        topic, subscriptions = subscription.topic, self._client.subscriptions
        if self.state == "closed":
            raise self.closed()
        if topic in subscriptions:
            raise ConfigurationError(f"this client has a subscription to {topic!r} already; share it in the program")
        subscriptions[topic] = subscription
        if self._current is not None and self._current.is_connected:
            self._current.join(subscription)

    def leave(self, subscription: TopicSubscription[Any], failure: Exception | None = None) -> None:
        """End a subscription.

        Args:
            subscription: the subscription.
            failure: what the program gets after the messages that wait; None ends them without an exception.
        """
        topic, subscriptions = subscription.topic, self._client.subscriptions
        if subscriptions.get(topic) is not subscription:
            return
        del subscriptions[topic]
        if self._current is not None and self._current.is_connected and subscription._is_sent:
            self._current.leave(topic)
        subscription._end(failure)

    async def change_presence(self, subscription: TopicSubscription[Any], fields: Fields) -> None:
        """Send a change of what a subscription tracks; without a connection, the next one has it anyway.

        Raises:
            CallError: the server refuses it.
            ConnectionClosed: the subscription or the client is over.
        """
        if self._client.subscriptions.get(subscription.topic) is not subscription:
            raise self.closed() if self.state == "closed" else subscription._over()
        if subscription._is_sent:
            try:
                await self.ask(fields, can_repeat=False, seconds=None)
            except ConnectionClosed:
                if self.state == "closed":
                    raise

    def add_direct(self, queue: MessageQueue[Any]) -> None:
        """Fill a queue with what the server sends to this client alone.

        Raises:
            ConnectionClosed: the client is closed.
        """
        if self.state == "closed":
            raise self.closed()
        self._client.direct.add(queue)

    def remove_direct(self, queue: MessageQueue[Any]) -> None:
        """End a queue of `add_direct`."""
        self._client.direct.discard(queue)
        queue.end(None)

    # -- the life of the client --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            try:
                with self._scope:
                    async for conn in self._loop:
                        await self._serve(conn)
                    self.reason = self._rules.reason
            finally:
                await self._loop.aclose()
        except ConnectionClosed:  # of the loop, if the server wants no further connection
            self.reason = self._failure or self._rules.reason
        except Exception as exc:
            self.reason = exc
        finally:
            self._set("closed", None if self._is_closing else self.reason)
            self._fail_all()
            self._conn = None
            self._has_ended = True
            self._ended.ring()

    def _fail_all(self) -> None:
        closed = self.closed()
        self._client.end(closed, None if self.reason is None else closed)

    def _set(self, state: State, reason: Exception | None) -> None:
        self.reason = reason
        if self.state != state:
            self.state = state
            self.changed.ring()

    async def _wait_for_attempt(self, seconds: float) -> None:
        """Wait before the next attempt; `skip_pause` ends the pause."""
        self._set("waiting", self._rules.reason)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_pause, tasks)
            await self._client.clock.sleep(seconds)
            tasks.cancel_scope.cancel()

    async def _end_pause(self, tasks: TaskGroup) -> None:
        while not self._must_skip_pause:
            await self._pause_skipped.wait()
        tasks.cancel_scope.cancel()

    async def _prepare(self) -> HeaderFields:
        """Get the token for one attempt, and return the header fields."""
        self._must_skip_pause = False
        self._set("connecting", self._rules.reason)
        arguments = self._client.arguments
        try:
            with anyio.fail_after(arguments.options.handshake_timeout):
                self._token = await self._client.get_token()
                return arguments.fields if self._make_fields is None else await self._make_fields()
        except ConnectionClosed as exc:  # of another connection, which the program uses to get the token
            self._failure = exc
            raise

    async def _serve(self, conn: LoopConnection[str | bytes]) -> None:
        """Use a connection until it has ended, or this side must leave it.

        Raises:
            Exception: the client is closed permanently.
        """
        self._conn = conn
        self._current = current = TopicsConnection(self._client, conn, self._token, self._connected)
        try:
            await current.run()
        finally:
            self._current = None  # `abort` still needs `_conn`: the end of the connection can take time
            self._disconnected(conn, current)
        if self._failure is not None:
            raise self._failure

    def _connected(self, client_id: str, user: str | None) -> None:
        self.client_id, self.user = client_id, user
        self._rules.accepted()
        self._set("open", None)

    def _disconnected(self, conn: LoopConnection[str | bytes], current: TopicsConnection) -> None:
        code, reason = conn.close_code, conn.close_reason
        described = f"the connection has ended with code {code}" + (f" ({one_line(reason)})" if reason else "")
        self._rules.order = current.order
        self._rules.reason = current.reason or ConnectionClosed(described, code, reason)
        self._failure = current.failure
        if self._failure is not None:
            self._set("closed", self._failure)
            self._fail_all()  # the end of the connection can take time
        elif not self._is_closing:
            lost = ConnectionClosed("the connection ended before the reply came", code, reason)
            self._client.requests.disconnected(lost)
            self._set("waiting", self._rules.reason)
