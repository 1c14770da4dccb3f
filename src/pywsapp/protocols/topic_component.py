"""`TopicComponent`: a component whose clients subscribe, publish and call by a protocol of this library."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._messages.procedures import Procedure, ReadArguments
from pywsapp._messages.typed import marked_methods
from pywsapp._request_state import access_of
from pywsapp.auth.first_message import MAX_WAITING, WaitingClients
from pywsapp.component import HandshakeAnswer, MessageComponent
from pywsapp.exceptions import CallError, ConfigurationError, InvalidCredentials, Refuse
from pywsapp.protocols.dialects import DIALECTS, codecs_of_dialects
from pywsapp.protocols.endpoint import TopicEndpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pywsapp.codecs.base import Codec
    from pywsapp.connection import Connection
    from pywsapp.http import Request
    from pywsapp.topics.topic import Topic

logger = logging.getLogger("pywsapp")

_MAX_SHOWN = 60
#: Attributes of a component that its protocol takes the place of, with what to use instead.
_NEVER_CALLED = {
    "on_message": "the protocol handles messages; use on_publish, on_call or @rpc",
    "on_invalid": "the protocol answers invalid messages",
    "subprotocols": "those of a TopicComponent name its protocols",
}


class Procedures:
    """The procedures of one class.

    Args:
        procedures: the procedures by their names.

    Raises:
        ConfigurationError: a codec cannot read the parameters of one of them.
    """

    def __init__(self, procedures: Mapping[str, Procedure]) -> None:
        self.names = procedures
        self._readers: dict[Codec, dict[str, ReadArguments]] = {
            codec: {name: one.arguments_reader(codec) for name, one in procedures.items()}
            for codec in (codecs_of_dialects() if procedures else ())
        }

    def read(self, name: str, params: Any, codec: Codec) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the method of a procedure, and its arguments.

        Raises:
            InvalidMessage: the parameters are not those of the procedure.
        """
        return self.names[name].function, self._readers[codec][name](params)


def find_handlers(kind: type[MessageComponent]) -> None:
    """Find the procedures of a subclass of `TopicComponent`, and check that it has nothing that is never called.

    Raises:
        ConfigurationError: it has a handler of messages, or subprotocols of its own.
    """
    assert issubclass(kind, TopicComponent)
    tags, procedures = marked_methods(kind)
    for name, instead in _NEVER_CALLED.items():
        if getattr(kind, name) is not getattr(TopicComponent, name):
            raise ConfigurationError(f"{kind.__name__}.{name} is never called: {instead}")
    fields = kind.filter_fields
    if isinstance(fields, str) or not all(isinstance(field, str) for field in fields):
        raise ConfigurationError(f'{kind.__name__}.filter_fields is a list of texts such as ["room"], not {fields!r}')
    if tags:
        raise ConfigurationError(f"{kind.__name__} has a method with @on, which is never called: use @rpc or on_call")
    kind._procedures = Procedures(procedures)
    kind._waiting = WaitingClients(MAX_WAITING)
    kind._has_on_track = kind.on_track is not TopicComponent.on_track


class TopicComponent(MessageComponent):
    """The base of a component whose clients subscribe to topics, publish and call: `app.route("/live", Rooms())`.

    Clients speak the protocol `pywsapp.topics.v1`; `App.route_client` serves a client for browsers. The subprotocol of
    the handshake names the protocol and its codec; a client that offers no subprotocol speaks JSON. A client gets only
    what `authorize` allows by returning True, as for `Connection.may`: subscribing, publishing, presence and history.

    All hooks are optional and can be `def`, `async def` or marked with `in_thread`. A method marked with `rpc` is a
    procedure that clients call. `on_open` is called when a client has connected by its first message, so `conn.user` is
    known. A hook refuses a request by raising `CallError`, `TopicError` or `NotAuthorized`, whose text the
    client gets. `on_error` gets any other exception, and the client the code `internal_error`.

    Attributes:
        authenticate_token: an optional hook, a method `authenticate_token(self, token)` that returns the user of a
            token, or an authenticator such as `TokenAuthenticator`. With it, a client whose handshake has no user sends
            a token in its first message, and can replace it before it expires.
        filter_fields: the fields of messages by which clients can filter a topic. A client that may subscribe can
            learn from a filter only what it could read in all messages.
    """

    subprotocols = tuple(DIALECTS)
    filter_fields: Sequence[str] = ()
    authenticate_token: Any = None  # a method or an authenticator; no type checker takes both for another type
    _has_protocol = True
    _has_on_track = False
    _procedures = Procedures({})
    #: The clients that have to send a token; their connections are those of all components of the class.
    _waiting = WaitingClients(MAX_WAITING)
    _more_hooks = MappingProxyType(
        {
            "on_publish": ("conn", "topic", "message"),
            "on_track": ("conn", "topic", "meta"),
            "on_call": ("conn", "method", "params"),
        }
    )
    _more_optional_hooks = MappingProxyType({"authenticate_token": ("token",)})
    _find_handlers = staticmethod(find_handlers)

    def on_handshake(self, request: Request) -> HandshakeAnswer | Awaitable[HandshakeAnswer]:
        """Refuse a client that offers other subprotocols only; see `MessageComponent.on_handshake`."""
        access = access_of(request)
        agreed = None if access is None else access.subprotocol
        if request.subprotocols and agreed is None and not set(request.subprotocols) & set(self.subprotocols):
            raise Refuse(400, body=f"the subprotocols of this server are {', '.join(self.subprotocols)}")
        return None

    def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
        """Handle a message that a client publishes, after `authorize` has allowed it.

        A client that got no answer repeats its message. The message is broadcast once. This call happens again only if
        another process, or a broker that does not answer, leaves open whether the first one has succeeded.

        Args:
            conn: the connection.
            topic: the topic.
            message: a str, bytes, or any other value of JSON except None.

        Returns:
            the message to broadcast on the topic; None broadcasts nothing. By default the message itself.

        Raises:
            CallError: the client gets the code and the text.
        """
        return message

    def on_track(self, conn: Connection, topic: Topic, meta: Any) -> Any:
        """Handle the value with which a client wants to be present in a topic, after `authorize` has allowed it.

        It is called when the client becomes present and when it changes the value, also after each reconnect. The
        client subscribes to the topic already, and `topic.present()` has the users of all processes.

        Args:
            conn: the connection.
            topic: the topic.
            meta: any value of JSON.

        Returns:
            the value that others see: any value of JSON, at most 4 KiB. By default the meta.

        Raises:
            CallError: the client gets the code and the text. A client that wanted to subscribe does not subscribe then.
        """
        return meta

    def on_call(self, conn: Connection, method: str, params: dict[str, Any] | list[Any]) -> Any:
        """Handle a call of a method that no procedure of the component has; return the result.

        Args:
            conn: the connection.
            method: the name of the method.
            params: the parameters, values of JSON.

        Raises:
            CallError: the client gets the code and the text. By default the code is "unknown_method".
        """
        raise CallError("unknown_method", f"there is no procedure {method[:_MAX_SHOWN]!r}")

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        """Handle an exception of another hook; by default it is logged, and the connection stays open.

        A client gets the code `internal_error` for its request. `InvalidCredentials` closes the connection with code
        4401.
        """
        if isinstance(exc, InvalidCredentials):
            return super().on_error(conn, exc)
        logger.error(
            "%s failed for %r",
            one_line(type(self).__name__),
            conn,
            exc_info=exc,
            extra=log_fields("handler.failed", conn, component=type(self).__name__, error=type(exc).__name__),
        )
        return None

    def on_message(self, conn: Connection, message: Any) -> Any:
        """Raise ConfigurationError: the protocol handles messages, and calls the other hooks.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError("a TopicComponent has no on_message; test it with TestClient, or call its hooks")

    def _for_connection(self) -> MessageComponent:
        return TopicEndpoint(self)
