"""`FakeConnection`: a connection without a client, for tests of one method of a component.

It is a `Connection` with a lifecycle and an outbox of its own; only the transport records instead of sending. So its
methods check their arguments, and raise, as they do in production.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from pywsapp._hooks import check_component
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._messages.choosing import checked_codecs, conversation_of
from pywsapp._messages.conversation import Conversation
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyCoroutine
from pywsapp._outbox.outbox import Flusher
from pywsapp._protocol.frames import encode_masked_frame
from pywsapp._protocol.opcodes import CLOSE, FIN, PING, PONG, TEXT
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp._protocol.websocket import WebSocket
from pywsapp._request_state import make_access
from pywsapp._transports.base import NO_PROTOCOL
from pywsapp._transports.socket import QueueingTransport
from pywsapp.asgi.frames import FrameReader
from pywsapp.close_codes import CloseCode
from pywsapp.codecs.base import Codec
from pywsapp.codecs.kinds import Encodable
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import HeaderItems
from pywsapp.http import Request
from pywsapp.options import Options
from pywsapp.sessions.session import Session
from pywsapp.testing.fake_app import FakeApp

#: There is no client that could inflate messages, and no time in which it could be silent.
_OPTIONS = Options(deflate=None, ping_interval=None)


class FakeConnection(Connection):
    """A connection that records what a handler does with it: `chat.on_message(FakeConnection(), "hello")`.

    It needs no App, no client and no event loop. A type checker takes it for a `Connection`. Handlers are not called:
    the test calls them.

    Args:
        path: the path of the request.
        user: the user that `authenticate` would have returned.
        session: the data of the session; None for a route without sessions.
        component: its `authorize`, `on_subscribe` and `on_unsubscribe` are called for topics, and its `on_invalid` for
            a text that `on_message` does not accept.
        app: what `conn.app` is: that of another FakeConnection, to which broadcasts then go too. None for a new one.
        headers: the header fields of the request.
        subprotocol: the agreed subprotocol.
        path_params: the parameters of the route.
        remote_address: the IP address of the client.
        options: the limits.
        codec: the codec of the route; JSON by default, if `component` has typed messages.
    """

    __slots__ = ("_conversation", "_lifecycle", "_recorder", "fake_app")

    def __init__(  # pyright: ignore[reportMissingSuperCall] - the lifecycle calls it, by `_become`
        self,
        path: str = "/",
        *,
        user: Any = None,
        session: Mapping[str, Any] | None = None,
        component: MessageComponent | None = None,
        app: FakeApp | None = None,
        headers: HeaderItems = (),
        subprotocol: str | None = None,
        path_params: Mapping[str, Any] | None = None,
        remote_address: str = "127.0.0.1",
        options: Options | None = None,
        codec: Codec | None = None,
    ) -> None:
        options = options or _OPTIONS
        if component is not None:
            check_component(component)
        of = MessageComponent() if component is None else component
        self._conversation = conversation_of(of, checked_codecs(codec), subprotocol, options)
        self.fake_app = app or FakeApp()
        path, _, query = path.partition("?")
        fields = headers.items() if isinstance(headers, Mapping) else headers
        request = Request(
            path=path,
            query_string=query,
            headers=tuple(fields),
            user=user,
            remote_address=remote_address,
            path_params=dict(path_params or {}),
            app=self.fake_app,
        )
        if session is not None:
            make_access(request).session = _session(session)
        self._recorder = _Recorder()
        ws = WebSocket(client=False, options=options)
        self._lifecycle = Lifecycle(
            _Hooks(component) if component is not None else MessageComponent(),
            request,
            ws,
            self._recorder,
            options,
            _Host(),
            subprotocol,
            self._become,
        )

    def _become(self, request: Request, subprotocol: str | None, driver: Any, outbox: Any) -> FakeConnection:
        super().__init__(request, subprotocol, driver, outbox)
        return self

    # -- what was recorded -------------------------------------------------------------------------------------------

    @property
    def sent(self) -> list[str | bytes]:
        """The messages that were sent, the first one first; those of broadcasts too."""
        self._flush()
        return list(self._recorder.messages)

    @property
    def sent_json(self) -> list[Any]:
        """The values of the messages, which must be JSON.

        Raises:
            ValueError: one of them is no JSON.
        """
        return [json.loads(message) for message in self.sent]

    @property
    def closed(self) -> tuple[int, str] | None:
        """The code and the reason of `close`; (1006, "") after `abort`; None while the connection is open."""
        return self._recorder.closed

    @property
    def subscriptions(self) -> list[str]:
        """The names of the topics that it subscribes to."""
        return [topic.name for topic in self.topics]

    @property
    def published(self) -> list[tuple[str, str | bytes]]:
        """The names and messages of all broadcasts on topics of `conn.app`, also those of other connections."""
        return list(self.fake_app.published)

    @property
    def _messages(self) -> Conversation | None:
        return self._conversation

    # -- what a connection does --------------------------------------------------------------------------------------

    def send(
        self, message: Sendable | PreparedMessage | Encodable, *, compress: bool | None = None
    ) -> LazyCoroutine[None]:
        """Record a message; see `Connection.send`."""
        raw: Any = message if self._conversation is None else self._conversation.encoded(message)
        return super().send(raw, compress=compress)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> LazyCoroutine[None]:
        """Record the close; the connection has then ended."""
        super().close(code, reason)
        self._flush()
        return ALREADY_DONE

    def abort(self) -> None:
        """Record the end without a close frame."""
        super().abort()
        if self._recorder.closed is None:
            self._recorder.closed = (int(CloseCode.ABNORMAL_CLOSURE), "")
        self._end()

    def ping(self, payload: bytes | None = None) -> LazyCoroutine[float]:
        """Return an awaitable that has its pong already."""
        latency = super().ping(payload)
        self._flush()
        return latency

    def _flush(self) -> None:
        self._lifecycle.machine.outbox.flush()
        answers, self._recorder.answers = self._recorder.answers, []
        for answer in answers:
            self._lifecycle.data_received(answer)
        if self._recorder.closed is not None:
            self._end()

    def _end(self) -> None:
        if self._driver is not None:
            self._lifecycle.connection_lost(None)


class _Hooks(MessageComponent):
    """The component of the lifecycle: it has the hooks about topics of another component, and no others."""

    def __init__(self, component: MessageComponent) -> None:
        self.authorize = component.authorize
        self.on_subscribe = component.on_subscribe  # type: ignore[method-assign]
        self.on_unsubscribe = component.on_unsubscribe  # type: ignore[method-assign]


class _Host(Flusher):
    """The host of the lifecycle. The connection flushes its outbox itself, and no task runs."""

    def __init__(self) -> None:
        super().__init__()
        self.flusher: Flusher = self

    def schedule(self) -> None: ...
    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None: ...
    def disconnected(self, connection: Any) -> None: ...
    def discard(self, connection: Any) -> None: ...
    def exceeded(self, limit: str, conn: Connection) -> None: ...
    def user_changed(self, conn: Connection) -> None: ...


class _Recorder(QueueingTransport):
    """A transport that keeps the messages of the frames that are written.

    Attributes:
        messages: the messages.
        closed: the code and the reason of the close frame.
        answers: the frames with which a client would answer.
    """

    __slots__ = ("_frames", "answers", "closed", "messages")

    def __init__(self) -> None:
        super().__init__(NO_PROTOCOL)
        self.messages: list[str | bytes] = []
        self.closed: tuple[int, str] | None = None
        self.answers: list[bytes] = []
        self._frames = FrameReader()

    def write(self, data: bytes) -> None:
        for opcode, payload in self._frames.feed(data):
            if opcode == CLOSE:
                self.closed = (int.from_bytes(payload[:2], "big"), payload[2:].decode())
                self.answers.append(encode_masked_frame(FIN | CLOSE, payload))
            elif opcode == PING:
                self.answers.append(encode_masked_frame(FIN | PONG, payload))
            else:
                self.messages.append(payload.decode() if opcode == TEXT else payload)

    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class _Saved:
    """The driver of a session without a store: saving keeps the data."""

    async def save(self, session: Session) -> None:
        session._mark_saved()

    async def rotate(self, session: Session) -> None:
        session._mark_saved()

    async def destroy(self, session: Session) -> None:
        session._replace({}, None, None)

    async def reload(self, session: Session) -> None: ...


def _session(data: Mapping[str, Any]) -> Session:
    session = Session(_Saved())
    session._replace(dict(data), "token", None)
    return session
