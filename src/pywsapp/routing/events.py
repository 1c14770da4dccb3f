"""Event streams as routes: a topic as `text/event-stream`, which `EventSource` of browsers reads.

`App.events` and `Router.events` add one. The server continues the response as a stream: see
`pywsapp._lifecycle.event_stream`, and `pywsapp._protocol.event_stream` for the format.

Origins. A browser sends the Origin field of an `EventSource` only if the page has another origin, and such a page can
read the stream only if the response names it. So a stream without the field is allowed, and a foreign origin is checked
by the rules of WebSocket routes. An allowed one is named in Access-Control-Allow-Origin, and may read the stream with
the cookies of the user. With `"*"` pages of every site may read it, without cookies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pywsapp._lifecycle.event_stream import EventStreamResponse, Start, StreamSettings
from pywsapp._protocol.event_stream import BINARY, LOST, EventFormat
from pywsapp.brokers.base import Position
from pywsapp.component import MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse, TopicError
from pywsapp.middleware.origin import OriginCheck, parse_origin
from pywsapp.topics.template import TopicTemplate

if TYPE_CHECKING:
    from pywsapp.http import Request
    from pywsapp.options import Options

#: What the last message of a client is called by the browser and by others.
_LAST_EVENT_ID, _SINCE = "last-event-id", "since"
#: A position that no history has: everything that a history keeps comes after it, and before that something is lost.
_UNKNOWN = str(Position("unknown", 1))
#: Names of events with a meaning of their own: ours, and those of `EventSource`.
_RESERVED = (LOST, BINARY, "open", "error")
#: Caches store nothing, proxies do not compress (which would delay events), and nginx does not buffer.
_HEADERS = (("Cache-Control", "no-store, no-transform"), ("X-Accel-Buffering", "no"))
_MAX_SECONDS = 86400


class EventStreams:
    """Answers requests for event streams of one route; a handler of plain HTTP.

    Args:
        path_parameters: the names of the parameters of the path.
        topic: the topic, a `TopicTemplate`.
        event: see `App.events`, as for the other arguments.
        history: what a client without a position gets.
        keepalive: seconds between two comments.
        retry: seconds after which a client connects again, on average.
        allowed_origins: the pages of other origins that may read the stream.
        options: the limits; None for those of the server.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(
        self,
        path_parameters: Iterable[str],
        topic: str,
        *,
        event: str | None = None,
        history: str | int = "all",
        keepalive: float = 15,
        retry: float = 3,
        allowed_origins: Iterable[str] | None = None,
        options: Options | None = None,
    ) -> None:
        self._topic = TopicTemplate(topic, path_parameters)
        self._origins = OriginCheck(MessageComponent(), allowed_origins)
        _check_event(event)
        _check_seconds("keepalive", keepalive)
        _check_seconds("retry", retry)
        self._settings = StreamSettings(
            wire_format=EventFormat(event), last=_last(history), keepalive=keepalive, retry=retry, options=options
        )

    def __call__(self, request: Request) -> EventStreamResponse:
        """Return the beginning of a stream.

        Raises:
            Refuse: the page may not read the stream (403), its path names no topic (400), it has no user (401), or its
                position is malformed (400).
        """
        self._origins.check(request)
        if request.app is None:
            raise ConfigurationError("an event stream needs an App: route the Router on one")
        topic = request.app.topic(self._topic.name_for(request))
        since = None if topic.history is None else _position(request)
        headers = (*_HEADERS, *self._origin_headers(request))
        return EventStreamResponse(Start(topic, since, self._topic.is_chosen), self._settings, headers)

    def _origin_headers(self, request: Request) -> list[tuple[str, str]]:
        """Return what lets the page of another origin read the response."""
        sent = request.headers.get("origin")
        if sent is None:
            return [("Vary", "Origin")]
        origin, allowed = parse_origin(sent), self._origins.allowed_origins
        if origin is None or ("*" in allowed and not allowed.match(origin)):
            return [("Vary", "Origin"), ("Access-Control-Allow-Origin", "*")]
        credentials = ("Access-Control-Allow-Credentials", "true")
        return [("Vary", "Origin"), ("Access-Control-Allow-Origin", sent), credentials]


def _position(request: Request) -> str | None:
    """Return the position of the last message that the client has; None if it has none.

    A browser repeats the URL when it connects again, so Last-Event-ID is newer than `since`. An id that is no position,
    for instance of the server that was here before, is one that no history has.
    """
    last_id = request.headers.get(_LAST_EVENT_ID)
    if last_id:
        try:
            return str(Position.parse(last_id))
        except TopicError:
            return _UNKNOWN
    since = request.query_params.get(_SINCE)
    try:
        return str(Position.parse(since)) if since else None
    except TopicError as exc:
        raise Refuse(400, body=str(exc)) from None


def _check_event(event: Any) -> None:
    if event is None:
        return
    if not isinstance(event, str) or not event or not event.isprintable():
        raise ConfigurationError(f"event is the name of the events, such as 'token', not {event!r}")
    if event in _RESERVED:
        raise ConfigurationError(f"event cannot be {event!r}, because such events mean something else")


def _check_seconds(name: str, value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _MAX_SECONDS or math.isnan(value):
        raise ConfigurationError(f"{name} must be a number of seconds greater than 0, at most a day, not {value!r}")


def _last(history: Any) -> int | None:
    if history == "all":
        return None
    if history == "new":
        return 0
    if type(history) is not int or history < 0:
        raise ConfigurationError(f'history is "all", "new" or a number of messages, not {history!r}')
    return history
