"""The WebSocket protocol of pywsapp for uvicorn: `uvicorn main:site --ws pywsapp.asgi.uvicorn:Protocol`.

uvicorn reads the head of a request, and passes the transport on when the request asks for a WebSocket. A `Protocol`
calls the ASGI application, which is the whole site with its middleware. The further data flow depends on the
application that answers the handshake:

    an App              takes over the transport (`pywsapp.asgi.takeover`): its lifecycle runs the connection as on the
                        own server, with the options of the App
    other applications  get and send the messages of ASGI. A lifecycle runs the connection here too, with the settings
                        of uvicorn (`--ws-max-size` and others); its component is a `Channel`

States

    state      the peer's bytes are  the protocol waits for                       next state
    ---------  --------------------  -------------------------------------------  ------------------
    DECIDING   kept                  the application: to accept, close or answer  ACCEPTED, OPEN, ANSWERED
    ACCEPTED   kept                  the App, to take over the transport          OPEN
    OPEN       the lifecycle's       the end of the connection                    ENDED
    ANSWERED   dropped               the transport to send the rest               ENDED
    ENDED      none                  nothing                                      none

The loss of the transport leads from every state to ENDED.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING, Any

from pywsapp._event_loop import note_asyncio
from pywsapp._extras import missing_extra
from pywsapp._http_text import one_line
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._log_fields import log_fields
from pywsapp._outbox.awaitables import ALREADY_DONE
from pywsapp._protocol.handshake import accept, agree_on_deflate
from pywsapp._protocol.websocket import WebSocket
from pywsapp._transports.tls_buffer import share_read_buffer
from pywsapp._transports.tls_lost import survive_loss
from pywsapp.asgi.channel import Channel
from pywsapp.asgi.denial import Denial, encode_denial, text_fields
from pywsapp.asgi.handshake import read_handshake
from pywsapp.asgi.loop_runtime import check_running_loop, runtime_of, settings_of
from pywsapp.asgi.takeover import EXTENSION, HostOfOne
from pywsapp.close_codes import CloseCode, cut_reason
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Response
from pywsapp.options import Deflate, Options

try:
    import uvicorn
    from uvicorn.protocols.utils import (
        ClientDisconnected,
        get_client_addr,
        get_local_addr,
        get_path_with_query_string,
        get_remote_addr,
        is_ssl,
    )
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "uvicorn") from exc

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from pywsapp._outbox.outbox import Outbox
    from pywsapp._protocol.deflate import DeflateParameters
    from pywsapp.asgi.scope import Scope
    from pywsapp.connection import Connection
    from pywsapp.http import Request

#: The versions of uvicorn whose protocols were read and tested; the extra `uvicorn` in pyproject.toml has them too.
OLDEST, TOO_NEW = (0, 36), (1, 0)
_RESTART = "service restart"
_NO_SCOPE: Scope = {}
uvicorn_logger = logging.getLogger("uvicorn.error")
logger = logging.getLogger("pywsapp")


def check_version(version: str) -> None:
    """Check that a version of uvicorn can be used.

    Raises:
        ConfigurationError: it is too old or too new.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if not OLDEST <= (major, minor) < TOO_NEW:
        raise ConfigurationError(
            f"pywsapp.asgi.uvicorn needs uvicorn {'.'.join(map(str, OLDEST))} or newer, below "
            f"{'.'.join(map(str, TOO_NEW))}, and this is {version}: pip install 'pywsapp[uvicorn]'"
        )


check_version(uvicorn.__version__)
check_running_loop()


class _State(Enum):
    DECIDING = "deciding"
    ACCEPTED = "accepted"
    OPEN = "open"
    ANSWERED = "answered"
    ENDED = "ended"


class Protocol(asyncio.Protocol):
    """A WebSocket of uvicorn, from its handshake on: `uvicorn main:site --ws pywsapp.asgi.uvicorn:Protocol`.

    uvicorn creates one for each handshake. A subclass can set other `options` for the applications that are not an App:
    what uvicorn has a setting for (`ws_max_size`, `ws_max_queue`, `ws_ping_interval`, `ws_ping_timeout` and
    `ws_per_message_deflate`) is replaced by that. An App has options of its own.

    Attributes:
        options: the limits of connections whose application is not an App.

    Args:
        config: the configuration of uvicorn.
        server_state: what the connections of the server share.
        app_state: what the lifespan of the site has put into the state.
    """

    __slots__ = (
        "_app_state",
        "_channel",
        "_config",
        "_decided",
        "_deflate",
        "_denial",
        "_fields",
        "_is_reading",
        "_is_stopping",
        "_is_taken",
        "_lifecycle",
        "_options",
        "_outbox",
        "_request",
        "_runtime",
        "_scope",
        "_server_state",
        "_state",
        "_task",
        "_trailing",
        "transport",
    )

    options: Options = Options()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.transport: Any = None
        self._config = config
        self._state = _State.DECIDING
        self._server_state = server_state
        self._app_state = app_state
        self._runtime = runtime_of(server_state, self.options)
        self._options = settings_of(
            self.options,
            config.ws_max_size,
            config.ws_max_queue,
            config.ws_ping_interval,
            config.ws_ping_timeout,
            config.ws_per_message_deflate,
        )
        queue = self._options.max_queue
        self._channel = Channel(self._runtime.loop, queue, self._options.max_message_size)
        self._request: Any = None
        self._scope = _NO_SCOPE
        self._fields: tuple[Any, ...] = ()  # of the header, for `take_request`
        self._trailing = bytearray()
        self._is_reading = True
        self._is_taken = False  # an App takes over, or is about to
        self._deflate: Deflate | None = None  # of the App that takes over
        self._decided: asyncio.Future[None] | None = None  # of a takeover that waits for the 101 response
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None
        self._lifecycle: Lifecycle | None = None
        self._outbox: Outbox | None = None  # of a connection that was not taken over
        self._denial: Denial | None = None

    # -- events of the transport, until a lifecycle gets them ----------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Store the transport."""
        survive_loss(transport)
        self.transport = transport
        self._server_state.connections.add(self)  # type: ignore[arg-type] # it lists its own protocols

    def data_received(self, data: bytes) -> None:
        """Handle the head of the handshake, which comes first and whole, or keep what comes behind it."""
        if self._request is None and self._state is _State.DECIDING:
            note_asyncio()  # in the context in which the lifecycle gets its bytes, and may start a handler task
            try:
                self._read_head(data)
            except Exception as exc:
                self._refuse_head(data, exc)
        elif self._state in (_State.DECIDING, _State.ACCEPTED):
            self._trailing += data
            if len(self._trailing) > self._options.max_header_size and self._is_reading:
                self._is_reading = False
                self.transport.pause_reading()

    def eof_received(self) -> None:
        """Close the transport: a WebSocket needs both directions."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the loss of the transport before a lifecycle has it."""
        self.transport.close()
        self._leave()
        self._channel.end(CloseCode.ABNORMAL_CLOSURE, "connection lost")

    def shutdown(self) -> None:
        """Close the connection, because the server shuts down; uvicorn calls this."""
        self._is_stopping = True
        if self._lifecycle is not None:
            if self._is_taken:
                self._runtime.loop.call_later(self._options.drain_timeout, self._give_up)
            else:
                self._channel.end(CloseCode.SERVICE_RESTART, _RESTART)
                self._channel.discard()
            self._lifecycle.conn.close(CloseCode.SERVICE_RESTART, _RESTART)
        elif self._state is _State.DECIDING:
            self._log_answer("503")
            self._respond_refusal(Refuse(503, [("Retry-After", "1")], "the server is restarting"))
        elif self._state is _State.ANSWERED:
            self.transport.close()

    def _give_up(self) -> None:
        """Have uvicorn wait no longer for a handler; the App cancels it when the lifespan ends."""
        if self._lifecycle is not None and self._task is not None:
            conn = self._lifecycle.conn
            logger.warning("%r did not end in time and is aborted", conn, extra=log_fields("connection.aborted", conn))
            self._task.cancel()
            self._leave()

    # -- the handshake -----------------------------------------------------------------------------------------------

    def _read_head(self, data: bytes) -> None:
        transport, config = self.transport, self._config
        self._request, scope = read_handshake(
            data,
            self._options,
            root_path=config.root_path,
            client=get_remote_addr(transport),
            server=get_local_addr(transport),
            over_tls=is_ssl(transport),
            extensions={"websocket.http.response": {}, EXTENSION: {"takeover": self}},
        )
        scope["asgi"] = {"version": config.asgi_version, "spec_version": "2.4"}
        scope["state"] = self._app_state.copy()
        self._scope = scope
        self._fields = tuple(scope["headers"])
        self._channel.begin({"type": "websocket.connect"})
        # Not at once, since an eager task could accept before uvicorn makes this the protocol of the transport.
        self._runtime.loop.call_soon(self._start)

    def _refuse_head(self, data: bytes, exc: Exception) -> None:
        if not isinstance(exc, Refuse):
            uvicorn_logger.error("reading a handshake failed", exc_info=exc)
            exc = Refuse(500, body="internal error")
        scope: Any = {"client": get_remote_addr(self.transport)}
        target = one_line(data.partition(b"\r\n")[0].decode("latin-1").partition(" ")[2].partition(" ")[0])
        self._log(scope, target, str(exc.status))
        self._respond_refusal(exc)

    def _start(self) -> None:
        if self._state is _State.DECIDING:
            self._task = task = self._runtime.loop.create_task(self._run())
            self._server_state.tasks.add(task)
            task.add_done_callback(self._server_state.tasks.discard)

    async def _run(self) -> None:
        """Call the application; this is a task of the server."""
        code: int = CloseCode.NORMAL
        app: Any = self._config.loaded_app
        try:
            result = await app(self._scope, self._channel.receive, self._send)
            if result is not None:
                uvicorn_logger.error("ASGI callable should return None, but returned '%s'.", result)
            if self._state is _State.DECIDING:
                uvicorn_logger.error("ASGI callable returned without completing handshake.")
        except ClientDisconnected:
            pass
        except Exception:
            uvicorn_logger.exception("Exception in ASGI application\n")
            code = CloseCode.INTERNAL_ERROR
        finally:
            self._finish(code)

    def _finish(self, code: int) -> None:
        """End what the application has left open."""
        self._scope, self._task = _NO_SCOPE, None  # which refer to this object
        if self._state is _State.DECIDING:
            self._respond_refusal(Refuse(500, body="internal error"))
        elif self._state is _State.ACCEPTED:
            self.transport.abort()
        elif self._lifecycle is not None and not self._is_taken:
            reason = "internal error" if code == CloseCode.INTERNAL_ERROR else ""
            self._channel.end(code, reason)
            self._channel.discard()
            self._lifecycle.conn.close(code, reason)

    async def _send(self, message: dict[str, Any]) -> None:
        """Handle a message of the application; the `send` of ASGI."""
        outbox = self._outbox
        if outbox is None:
            self._answer(message)
        elif message["type"] == "websocket.send" and outbox.is_open:
            data = message.get("bytes")
            sent = outbox.send(message["text"] if data is None else data, None)
            if sent is not ALREADY_DONE:
                await sent
        else:
            self._send_other(message)

    def _send_other(self, message: dict[str, Any]) -> None:
        """Handle a message to an open connection that is no `websocket.send`, or one to a closing connection."""
        kind = message["type"]
        if self._lifecycle is None or self._outbox is None or not self._outbox.is_open or self._channel.has_ended:
            raise ClientDisconnected
        if kind != "websocket.close":
            raise RuntimeError(f"Expected ASGI message 'websocket.send' or 'websocket.close', but got '{kind}'.")
        code, reason = message.get("code") or CloseCode.NORMAL, cut_reason(message.get("reason") or "")
        self._lifecycle.conn.close(code, reason)
        self._channel.discard()
        self._channel.end(code, reason)

    def _answer(self, message: dict[str, Any]) -> None:
        """Handle a message about a handshake that is not accepted."""
        kind = message["type"]
        if self._state is _State.ENDED:
            raise ClientDisconnected
        if self._state is not _State.DECIDING:
            raise RuntimeError(f"Unexpected ASGI message '{kind}', after the handshake was answered.")
        if self._denial is not None:
            self._add_to_denial(self._denial, message)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._log_answer("403")
            self._respond(403, [], b"")
        elif kind == "websocket.http.response.start":
            self._denial = Denial(message)
        else:
            raise RuntimeError(
                "Expected ASGI message 'websocket.accept', 'websocket.close' or 'websocket.http.response.start', "
                f"but got '{kind}'."
            )

    def _accept(self, message: dict[str, Any]) -> None:
        transport, options = self.transport, self._options
        if transport.is_closing():
            raise ClientDisconnected
        subprotocol = message.get("subprotocol") or None
        headers = [*text_fields(self._server_state.default_headers), *text_fields(message.get("headers", ()))]
        wanted = self._deflate if self._is_taken else options.deflate
        response, deflate = accept(self._request, subprotocol=subprotocol, deflate=wanted, headers=headers)
        self._log_answer("[accepted]")
        transport.write(response)
        share_read_buffer(transport)
        if self._is_taken:
            self._state = _State.ACCEPTED
            self._wake_taker()
            return
        host = HostOfOne(self._runtime, self.ended)
        ws = WebSocket(client=False, options=options, deflate=deflate)
        lifecycle = Lifecycle(self._channel, self._request, ws, transport, options, host, subprotocol)
        self._channel.serve(lifecycle.machine)
        self._outbox = lifecycle.machine.outbox
        self._runtime.add(lifecycle)
        lifecycle.open(self.begin(lifecycle, options))

    # -- answering with plain HTTP -----------------------------------------------------------------------------------

    def _add_to_denial(self, denial: Denial, message: dict[str, Any]) -> None:
        if denial.add(message):
            self._log_answer(str(denial.status))
            self._respond(denial.status, denial.headers, denial.body)

    def _respond_refusal(self, refuse: Refuse) -> None:
        response = Response.refusal(refuse)
        assert isinstance(response.body, bytes)
        self._respond(response.status, list(response.headers), response.body)

    def _respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send a response, and close behind it."""
        data = encode_denial(status, headers, body, self._server_state.default_headers)
        self._state = _State.ANSWERED
        self.transport.write(data)
        self.transport.close()
        self._channel.end(CloseCode.ABNORMAL_CLOSURE, "")
        self._wake_taker()

    def _log_answer(self, answer: str) -> None:
        if uvicorn_logger.isEnabledFor(logging.INFO):
            scope: Any = self._scope
            self._log(scope, get_path_with_query_string(scope), answer)

    @staticmethod
    def _log(scope: Any, target: str, answer: str) -> None:
        """Log an answer as uvicorn does, but without the query, which can have a token."""
        path, mark, _ = target.partition("?")
        uvicorn_logger.info('%s - "WebSocket %s" %s', get_client_addr(scope), path + (mark and "?..."), answer)

    # -- as a Takeover -------------------------------------------------------------------------------------------------

    def agree_on_deflate(self, deflate: Deflate | None) -> DeflateParameters | None:
        """See `Takeover.agree_on_deflate`."""
        self._is_taken = True
        self._deflate = deflate
        agreed = agree_on_deflate(self._request, deflate)
        return None if agreed is None else agreed[1]

    @property
    def is_accepted(self) -> bool:
        """See `Takeover.is_accepted`."""
        return self._state is _State.ACCEPTED

    def take_request(self, scope: Scope) -> Request | None:
        """See `Takeover.take_request`."""
        fields, self._fields = self._fields, ()
        return self._request if fields and tuple(scope["headers"]) == fields else None

    async def accepted(self) -> None:
        """See `Takeover.accepted`."""
        if self._state is _State.DECIDING:  # a middleware sends what it gets in a task of its own
            self._decided = self._runtime.loop.create_future()
            await self._decided
        if self._state is not _State.ACCEPTED:
            raise ClientDisconnected

    def begin(self, lifecycle: Lifecycle, options: Options) -> bytes:
        """See `Takeover.begin`."""
        if self._state is _State.ENDED or self.transport.is_closing():
            raise ClientDisconnected
        self._state = _State.OPEN
        self._lifecycle = lifecycle
        self._options = options
        self._request, self._scope, self._fields = None, _NO_SCOPE, ()
        self.transport.set_write_buffer_limits(high=options.high_water)
        self.transport.set_protocol(lifecycle)
        if not self._is_reading:
            self._is_reading = True
            self.transport.resume_reading()
        if self._is_stopping:
            self._runtime.loop.call_soon(self.shutdown)
        trailing, self._trailing = bytes(self._trailing), bytearray()
        return trailing

    def ended(self, conn: Connection) -> None:
        """Note the end of the connection; see `Takeover.ended`."""
        self._leave()
        code = CloseCode.ABNORMAL_CLOSURE if conn.close_code is None else conn.close_code
        self._channel.end(code, conn.close_reason)

    def _leave(self) -> None:
        self._state = _State.ENDED
        self._lifecycle = None
        self._server_state.connections.discard(self)
        self._wake_taker()

    def _wake_taker(self) -> None:
        decided, self._decided = self._decided, None
        if decided is not None and not decided.done():
            decided.set_result(None)
