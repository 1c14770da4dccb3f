"""One client of `pywsapp.topics.v1`.

Order. The requests of a client are handled one at a time, in their order, in the handler task of the connection. Two
things take place beside it, so that a request does not wait for the broker or for a client that reads slowly:

- a subscription waits for the broker, for the users in its topic and for what the client has missed, after its hooks
  have allowed it and its place in the order is certain;
- a published message waits until the broker has accepted it. The replies to published messages come in their order.

`ping` passes the requests that wait. While `Options.max_pending_requests` requests wait beside the handler task, the
next one waits in it, and all later ones behind that.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._http_text import one_line
from pywsapp._lifecycle.cancellation import raise_if_cancelled
from pywsapp._lifecycle.error_report import report_error
from pywsapp._log_fields import log_fields
from pywsapp._messages.conversation import MAX_TEXT, note_invalid
from pywsapp._outbox.awaitables import ALREADY_DONE
from pywsapp.close_codes import CloseCode, ComeBack, come_back, cut_reason
from pywsapp.exceptions import InvalidCredentials, InvalidMessage, Refuse
from pywsapp.protocols.client import ABSENT, TopicClient
from pywsapp.protocols.conversation import Dialect, ProtocolConversation, Session
from pywsapp.protocols.errors import RequestError, as_request_error
from pywsapp.protocols.subscription import Subscription
from pywsapp.protocols.topics_v1.form import TopicsV1Form, encoded
from pywsapp.protocols.topics_v1.messages import InvalidRequest, Request, id_in, read_request

if TYPE_CHECKING:
    from pywsapp.codecs.base import Codec
    from pywsapp.options import Options
    from pywsapp.topics.topic import Topic

logger = logging.getLogger("pywsapp")

#: Seconds of silence after which a client sends `ping`, if the server sends no pings itself.
PING_SECONDS = 25
#: Seconds after which a client comes back, by close code, and after all other codes.
_COME_BACK = {CloseCode.UNAUTHENTICATED: 0, CloseCode.SERVICE_RESTART: 0, CloseCode.TRY_AGAIN_LATER: 5}
_COME_BACK_LATER = 1
#: The longest `ping`; longer messages are not looked at before their turn.
_MAX_PING = 100

_Fields = dict[str, Any]


class TopicsV1(Dialect):
    """The protocol `pywsapp.topics.v1` in one codec.

    Args:
        codec: the codec.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._form = TopicsV1Form(codec)

    def conversation(self, options: Options) -> ProtocolConversation:
        """Return the messages of a new connection."""
        return ProtocolConversation(self.codec, options, self._form)

    def session(self, client: TopicClient, conversation: ProtocolConversation) -> Session:
        """Return the session of a new connection."""
        return TopicsV1Session(client, conversation.codec, conversation.options)


class TopicsV1Session(Session):
    """The session of one client.

    Args:
        client: does what the client asks for.
        codec: the codec of the connection.
        options: the limits.
    """

    __slots__ = ("_client", "_codec", "_conn", "_decode", "_has_room", "_in_use", "_invalid", "_options", "_unaccepted")

    def __init__(self, client: TopicClient, codec: Codec, options: Options) -> None:
        self._client = client
        self._conn = client.conn
        self._codec = codec
        self._decode = codec.decode
        self._options = options
        self._invalid = 0
        self._in_use: set[int] = set()  # ids of requests that are not handled in the handler task any more
        #: Messages that the broker has not accepted yet: the ids of the requests, the topics and the keys.
        self._unaccepted: deque[tuple[int, str, str | None, Awaitable[None]]] = deque()
        self._has_room: anyio.Event | None = None

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle a message of the client."""
        try:
            value = self._decode(message)
            if type(value) is dict and value.get("type") == "ping":
                self._send({"type": "pong"})
                return None
            request = read_request(value)
            self._check_turn(request)
        except InvalidMessage as exc:
            self._refuse(InvalidRequest("invalid_message", exc.reason, id_in(message)))
        except InvalidRequest as exc:
            self._refuse(exc)
        else:
            return self._handle(request)
        return None

    def receive_early(self, message: str | bytes) -> bool:
        """Answer a `ping` before the messages that wait; return whether the message was one."""
        if len(message) > _MAX_PING or ("ping" if type(message) is str else b"ping") not in message:  # type: ignore[operator]
            return False
        try:
            value = self._decode(message)
        except InvalidMessage:
            return False
        if type(value) is not dict or value.get("type") != "ping":
            return False
        self._send({"type": "pong"})
        return True

    def _check_turn(self, request: Request) -> None:
        """Check that the client is connected, if it must be, and that it does not use the id already."""
        if self._client.is_connected == (request.type == "connect"):
            if request.type == "connect":
                raise InvalidRequest("already_connected", "the client is connected already", request.id)
            raise InvalidRequest("not_connected", "the first message must be `connect`", request.id)
        if request.id in self._in_use:
            raise InvalidRequest("invalid_message", f"the id {request.id} is in use")

    def _refuse(self, exc: InvalidRequest) -> None:
        """Answer a message that is none of the protocol, and close the connection if there were too many."""
        conn, limit = self._conn, self._options.max_invalid_messages
        note_invalid(conn, exc)
        self._send_error(exc.request_id, exc)
        self._invalid += 1
        if limit is not None and self._invalid >= limit:
            conn.close(CloseCode.INVALID_PAYLOAD, "too many invalid messages")

    # -- handling ----------------------------------------------------------------------------------------------------

    async def _handle(self, request: Request) -> None:
        while len(self._in_use) >= self._options.max_pending_requests and self._conn.is_open:
            self._has_room = anyio.Event()
            await self._has_room.wait()
        try:
            reply = await _HANDLERS[request.type](self, request)
            if reply is not None:
                self._reply(request.id, reply)
        except Exception as exc:
            self._fail(request.id, exc)
            if request.type == "connect" or isinstance(exc, InvalidCredentials):
                self._close_after(exc)
            if as_request_error(exc) is None:
                raise
        except BaseException:  # the handler is cancelled, by its time limit for instance
            self._fail(request.id, RequestError("internal_error", "the request was cancelled"))
            raise

    def _close_after(self, exc: Exception) -> None:
        """Close the connection, because the client could not connect or its credentials are not valid."""
        error = as_request_error(exc)
        if isinstance(exc, Refuse):
            is_invalid = isinstance(exc, InvalidCredentials)
            logger.info(
                "%r sent no valid credentials: %s",
                self._conn,
                one_line(str(exc.body)),
                extra=log_fields("auth.refused", self._conn, reason=str(exc.body)),
            )
            code = CloseCode.UNAUTHENTICATED if is_invalid else CloseCode.TRY_AGAIN_LATER
        else:
            code = CloseCode.INTERNAL_ERROR if error is None else CloseCode.POLICY_VIOLATION
        self._conn.close(code, cut_reason("internal error" if error is None else error.message))

    async def _connect(self, request: Request) -> _Fields:
        fields = request.fields
        found = await self._client.connect(fields.get("token"), fields.get("session"), self.expiring)
        if self._conn._driver is not None:
            self._conn._driver.limit_messages(None)
        reply: _Fields = {"client": found.client, "ping": self._options.ping_interval or PING_SECONDS}
        return reply | _given(user=found.user, expires_in=found.expires_in)

    async def _subscribe(self, request: Request) -> _Fields | None:
        fields, driver = request.fields, self._conn._driver
        subscription = await self._client.subscribe(
            fields["topic"],
            fields.get("since", ABSENT),
            presence=fields.get("presence", False),
            meta=fields.get("track", ABSENT),
            fields=fields.get("filter"),
            newest=fields.get("newest", False),
        )
        if not subscription.must_wait or driver is None:
            return await self._finish_subscribing(subscription)
        assert request.id is not None
        self._in_use.add(request.id)
        driver.subscriptions().start_soon(functools.partial(self._finish_later, request.id, subscription))
        return None

    async def _finish_subscribing(self, subscription: Subscription) -> _Fields:
        found = await subscription.finish()
        optional = _given(position=found.position, complete=found.complete, present=found.present)
        return {"topic": subscription.topic.name} | optional

    async def _finish_later(self, request_id: int, subscription: Subscription) -> None:
        """Answer a client that subscribes, in a task of its own; an exception does not leave it."""
        try:
            self._reply(request_id, await self._finish_subscribing(subscription))
        except BaseException as exc:
            raise_if_cancelled(exc)
            await self._fail_and_report(request_id, exc)

    async def _unsubscribe(self, request: Request) -> _Fields:
        self._client.unsubscribe(request.fields["topic"])
        return {}

    async def _track(self, request: Request) -> _Fields:
        await self._client.track(request.fields["topic"], request.fields["meta"])
        return {}

    async def _untrack(self, request: Request) -> _Fields:
        self._client.untrack(request.fields["topic"])
        return {}

    async def _publish(self, request: Request) -> _Fields | None:
        fields = request.fields
        data = fields["base64"] if "base64" in fields else fields["data"]
        accepted = await self._client.publish(fields["topic"], data, fields.get("key"))
        driver = self._conn._driver
        if request.id is None or driver is None or (accepted is ALREADY_DONE and not self._unaccepted):
            return {}
        self._in_use.add(request.id)
        self._unaccepted.append((request.id, fields["topic"], fields.get("key"), accepted))
        if len(self._unaccepted) == 1:
            driver.subscriptions().start_soon(self._await_accepted)
        return None

    async def _await_accepted(self) -> None:
        """Answer published messages in their order, as the broker accepts them."""
        while self._unaccepted:
            request_id, topic, key, accepted = self._unaccepted[0]
            try:
                await accepted
                if key is not None:
                    self._client.note_accepted(topic, key)
                self._reply(request_id, {})
            except BaseException as exc:
                raise_if_cancelled(exc)
                await self._fail_and_report(request_id, exc)
            if self._unaccepted:
                self._unaccepted.popleft()

    async def _call(self, request: Request) -> _Fields:
        fields = request.fields
        return {"result": await self._client.call(fields["method"], fields.get("params", {}), self._codec)}

    async def _refresh(self, request: Request) -> _Fields:
        return _given(expires_in=await self._client.refresh(request.fields["token"], self.expiring))

    # -- sending -----------------------------------------------------------------------------------------------------

    def _send(self, fields: _Fields) -> None:
        self._conn._outbox.send(encoded(self._codec, fields), None)

    def _reply(self, request_id: int | None, fields: _Fields) -> None:
        if request_id is not None:
            self._send({"type": "ok", "id": request_id} | fields)
            self._answered(request_id)

    def _answered(self, request_id: int) -> None:
        self._in_use.discard(request_id)
        if self._has_room is not None:
            self._has_room.set()

    def _send_error(self, request_id: int | None, error: RequestError) -> None:
        fields = {"type": "error", "id": request_id, "code": error.code, "message": error.message[:MAX_TEXT]}
        if request_id is None:
            del fields["id"]
        self._send(fields | _given(retry_after=error.retry_after))

    def _fail(self, request_id: int | None, exc: BaseException) -> None:
        """Answer a request that has failed."""
        if request_id is None:
            return
        error = as_request_error(exc) if isinstance(exc, Exception) else None
        self._answered(request_id)
        self._send_error(request_id, error or RequestError("internal_error", "the request failed"))

    async def _fail_and_report(self, request_id: int, exc: BaseException) -> None:
        """Answer a request that has failed outside of the handler task, and report a fault of the server."""
        self._fail(request_id, exc)
        if not isinstance(exc, Exception) or as_request_error(exc) is None:
            reported = report_error(self._client.component, self._conn, exc)
            if reported is not None:
                await reported

    def unsubscribed(self, topic: Topic) -> None:
        """Send that the server has ended a subscription."""
        self._send(
            {
                "type": "unsubscribed",
                "topic": topic.name,
                "code": "not_allowed",
                "message": "the server has ended the subscription",
            }
        )

    def expiring(self, seconds: int) -> None:
        """Request a new token from the client."""
        self._send({"type": "expiring", "expires_in": seconds})

    def closing(self, code: int, reason: str) -> None:
        """Send the last message of a connection that this side closes."""
        reconnect: int | bool = False
        if come_back(code) is not ComeBack.NEVER:
            reconnect = next((seconds for known, seconds in _COME_BACK.items() if known == code), _COME_BACK_LATER)
        self._send({"type": "disconnect", "code": int(code), "reason": reason, "reconnect": reconnect})

    def end(self) -> None:
        """Drop what waits: the connection has ended."""
        self._unaccepted.clear()
        if self._has_room is not None:
            self._has_room.set()


def _given(**fields: Any) -> _Fields:
    return {name: value for name, value in fields.items() if value is not None}


_HANDLERS: dict[str, Callable[[TopicsV1Session, Request], Coroutine[Any, Any, _Fields | None]]] = {
    "connect": TopicsV1Session._connect,
    "subscribe": TopicsV1Session._subscribe,
    "unsubscribe": TopicsV1Session._unsubscribe,
    "track": TopicsV1Session._track,
    "untrack": TopicsV1Session._untrack,
    "publish": TopicsV1Session._publish,
    "call": TopicsV1Session._call,
    "refresh": TopicsV1Session._refresh,
}
