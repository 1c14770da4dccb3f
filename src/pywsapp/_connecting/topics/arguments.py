"""The arguments of `connect_topics`, checked before anything is sent."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from pywsapp._connecting.arguments import ConnectArguments
from pywsapp._connecting.backoff import Backoff
from pywsapp._connecting.reconnecting import Clock, MakeFields
from pywsapp._connecting.topics.client import TopicsClient
from pywsapp._connecting.topics.driver import TopicsDriver
from pywsapp._connecting.topics.requests import RequestQueue
from pywsapp._connecting.topics.rules import TopicsRules
from pywsapp._connecting.topics.topics_connection import ClientState, GetToken
from pywsapp.codecs.base import Codec
from pywsapp.exceptions import ConfigurationError
from pywsapp.protocols.dialects import TOPICS_V1, TOPICS_V1_MSGPACK

#: A token, or what makes one for each attempt.
Token = str | Callable[[], str | Awaitable[str | None] | None] | None

#: The pauses that the protocol names.
DEFAULT_BACKOFF = Backoff(base=0.5, cap=30)

_SUBPROTOCOLS = {"json": TOPICS_V1, "msgpack": TOPICS_V1_MSGPACK}
#: Bytes that a connection can have queued beside the requests of the program.
_MORE_BYTES = 65_536


def subprotocol_for(codec: object) -> str:
    """Return the subprotocol of a codec.

    Raises:
        ConfigurationError: the protocol has no form in it.
    """
    subprotocol = _SUBPROTOCOLS.get(codec.name) if isinstance(codec, Codec) else None
    if subprotocol is None:
        raise ConfigurationError(f"codec must be JsonCodec() or MessagePackCodec(), not {codec!r}")
    return subprotocol


def make_client(
    arguments: ConnectArguments,
    codec: Codec,
    token: Token,
    make_fields: MakeFields | None,
    backoff: Backoff,
    max_queue: int,
    max_queue_bytes: int,
) -> TopicsClient:
    """Return a client that is not connected yet.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    if token is not None and not isinstance(token, str) and not callable(token):
        raise ConfigurationError(f"token must be a str or a function, not {type(token).__name__}")
    for name, value in (("max_queue", max_queue), ("max_queue_bytes", max_queue_bytes)):
        if type(value) is not int or value < 1:
            raise ConfigurationError(f"{name} must be a whole number from 1 on, not {value!r}")
    most = max(arguments.options.max_outbox, max_queue_bytes + _MORE_BYTES)
    arguments = arguments._replace(options=dataclasses.replace(arguments.options, max_outbox=most))
    renews = callable(token) or make_fields is not None

    def make_driver() -> TopicsDriver:
        clock = Clock()
        requests = RequestQueue(max_queue, max_queue_bytes)
        client = ClientState(arguments, codec, _token_getter(token), requests, clock)
        return TopicsDriver(client, make_fields, TopicsRules(backoff, renews=renews, uniform=clock.uniform))

    return TopicsClient(make_driver, codec)


def _token_getter(token: Token) -> GetToken:
    async def get_token() -> str | None:
        made: Any = token() if callable(token) else token
        found = await made if inspect.isawaitable(made) else made
        if found is not None and not isinstance(found, str):
            raise ConfigurationError(f"the token function must return a str or None, not {type(found).__name__}")
        return found

    return get_token
