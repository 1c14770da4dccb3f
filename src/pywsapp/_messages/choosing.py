"""The codec of a connection: that of its route, of several the one that the subprotocol names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pywsapp._messages.conversation import Conversation, OwnConversation
from pywsapp._messages.typed import TypedMessages
from pywsapp._messages.typed_connection import TypedConnection
from pywsapp._protocol.http import TOKEN
from pywsapp._request_state import access_of, make_access
from pywsapp.codecs.base import Codec
from pywsapp.codecs.json_codec import JsonCodec
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pywsapp.component import MessageComponent
    from pywsapp.http import Request
    from pywsapp.options import Options

#: One codec, or several of which clients choose one by its subprotocol; the first one is for those that choose none.
Codecs = Codec | Sequence[Codec]


def checked_codecs(codec: Codecs | None) -> tuple[Codec, ...]:
    """Return the codecs that a route or an App names; none for None.

    Raises:
        ConfigurationError: there is something else among them, or two have the same name.
    """
    if codec is None:
        return ()
    if isinstance(codec, type) and issubclass(codec, Codec):
        raise ConfigurationError(f"codec must be an object, not a class: write {codec.__name__}()")
    codecs = (codec,) if isinstance(codec, Codec) else codec
    if isinstance(codecs, str) or not isinstance(codecs, Sequence) or not codecs:
        raise ConfigurationError(f"codec must be a Codec such as JsonCodec(), or a list of them, not {codec!r}")
    for one in codecs:
        if not isinstance(one, Codec):
            raise ConfigurationError(f"codec must be a Codec such as JsonCodec(), not {one!r}")
        if not isinstance(one.name, str) or not TOKEN.fullmatch(one.name):
            raise ConfigurationError(f"the name of {one!r} is a subprotocol, which {one.name!r} cannot be")
    names = [one.name for one in codecs]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"two codecs have the same name: {', '.join(names)}")
    return tuple(codecs)


@functools.cache
def default_codec() -> Codec:
    """Return the codec of typed components on a route without one."""
    return JsonCodec()


def check_can_read(component: Any, codecs: Sequence[Codec], subprotocols: Sequence[str] | None = None) -> None:
    """Check that the codecs of a route can be chosen, and can read what its component accepts.

    Args:
        component: the component, or a class of components; the component inside of middleware is checked.
        codecs: the codecs; none for the default.
        subprotocols: the subprotocols of the route; None if it has none of its own.

    Raises:
        ConfigurationError: no subprotocol names a codec, a codec cannot read one of the types, or a library is not
            installed.
    """
    declared = getattr(component, "subprotocols", ()) if subprotocols is None else subprotocols
    unnamed = [codec.name for codec in codecs if declared and codec.name not in declared]
    if len(codecs) > 1 and unnamed:
        raise ConfigurationError(
            f"clients choose a codec by its name as the subprotocol: add {', '.join(map(repr, unnamed))} to the "
            "subprotocols, or leave them out"
        )
    while hasattr(component, "component"):
        component = component.component
    typed = getattr(component, "_typed", None)
    if isinstance(typed, TypedMessages):
        for codec in codecs or (default_codec(),):
            typed.reader(codec)


def check_has_no_protocol(component: Any, label: str) -> None:
    """Check that a component for which a route has codecs or subprotocols does not choose them itself.

    Raises:
        ConfigurationError: it does, or the component inside of this middleware.
    """
    while hasattr(component, "component"):
        component = component.component
    if getattr(component, "_has_protocol", False):
        raise ConfigurationError(
            f"{label}: clients choose a protocol of the component; leave codec and subprotocols out"
        )


def note_codecs(request: Request, codecs: tuple[Codec, ...]) -> None:
    """Note the codecs of a route that is inside of those that were noted before."""
    make_access(request).codecs = codecs


def offered_subprotocols(request: Request) -> tuple[str, ...]:
    """Return the names of the codecs of a request's route."""
    access = access_of(request)
    return () if access is None else tuple(codec.name for codec in access.codecs)


def connection_maker(
    component: MessageComponent, request: Request, subprotocol: str | None, options: Options
) -> Callable[..., Connection]:
    """Return what makes the connection of an accepted handshake; it takes the arguments of `Connection`.

    Raises:
        ConfigurationError: the codec cannot read what the component accepts.
    """
    access = access_of(request)
    return maker_for(component, () if access is None else access.codecs, subprotocol, options)


def maker_for(
    component: MessageComponent, codecs: tuple[Codec, ...], subprotocol: str | None, options: Options
) -> Callable[..., Connection]:
    """Return what makes the connection of a component with codecs; see `connection_maker`."""
    conversation = conversation_of(component, codecs, subprotocol, options)
    return Connection if conversation is None else functools.partial(TypedConnection, conversation)


def conversation_of(
    component: MessageComponent, codecs: tuple[Codec, ...], subprotocol: str | None, options: Options
) -> Conversation | None:
    """Return the conversation of a connection; None if it has no codec.

    Raises:
        ConfigurationError: the codec cannot read what the component accepts.
    """
    typed = component._typed
    if typed is None and not codecs:
        return None
    if isinstance(typed, OwnConversation):
        return typed.conversation(subprotocol, options)
    codec = next((one for one in codecs if one.name == subprotocol), codecs[0] if codecs else default_codec())
    return Conversation(codec, typed, options)
