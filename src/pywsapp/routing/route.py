"""One route of a router: what it matches, where it leads, and how it is sorted among the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from pywsapp._access import Authenticate
from pywsapp._authorize import Authorize
from pywsapp._protocol.http import TOKEN
from pywsapp.codecs.base import Codec
from pywsapp.component import MessageComponent
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options
from pywsapp.routing.host_pattern import HostPattern
from pywsapp.routing.path_pattern import REST_OF_PATH, PathPattern

#: The methods of a plain request for what is at a path.
READING = ("GET", "HEAD")


class RouteKind(str, Enum):
    """The kind of a route."""

    WEBSOCKET = "websocket"
    HTTP = "http"
    MOUNT = "mount"


class RouteInfo(NamedTuple):
    """A line of `Router.routes()`.

    Attributes:
        kind: "websocket", "http" or "mount".
        host: the hosts that the route answers to.
        path: the path pattern, or the prefix of a mount.
        component: the name of the component or handler.
        methods: the HTTP methods of a handler.
    """

    kind: str
    host: str
    path: str
    component: str
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    kind: RouteKind
    hosts: HostPattern
    pattern: PathPattern
    target: Any  # an HttpHandler, or an argument of make_component
    methods: tuple[str, ...] = ()
    subprotocols: Sequence[str] | None = None
    require_subprotocol: bool = False
    options: Options | None = None
    is_probe: bool = False
    authenticate: Authenticate | None = None
    authorize: Authorize | None = None
    codecs: tuple[Codec, ...] = ()
    has_fallback: bool = False

    def match(self, path: str) -> tuple[dict[str, Any], str] | None:
        """Return the path's parameters and, for a mount, the path below it; None if the path does not match."""
        if self.kind is RouteKind.MOUNT:
            return self.pattern.match_prefix(path)
        params = self.pattern.match(path)
        return None if params is None else (params, path)

    def sort_key(self) -> tuple[Any, ...]:
        parts = self.pattern.specificity
        if self.kind is RouteKind.MOUNT:
            parts = (*(parts if self.pattern.text != "/" else ()), REST_OF_PATH)
        return self.hosts.specificity, parts, self.pattern.shape

    def info(self) -> RouteInfo:
        return RouteInfo(self.kind.value, self.hosts.text, self.pattern.text, label_of(self.target), self.methods)

    def conflicts_with(self, other: Route) -> bool:
        """Return whether both match the same requests."""
        return (self.kind, self.hosts.text, self.pattern.shape) == (
            other.kind,
            other.hosts.text,
            other.pattern.shape,
        ) and (self.kind is not RouteKind.HTTP or not set(self.methods).isdisjoint(other.methods))


def label_of(target: object) -> str:
    """Return the name of a component, class or function for messages: `Chat`, `OriginCheck(Chat)`."""
    if not isinstance(target, MessageComponent):
        return getattr(target, "__qualname__", type(target).__name__)
    inner = getattr(target, "component", None)
    name = type(target).__name__
    return f"{name}({label_of(inner)})" if isinstance(inner, MessageComponent) or callable(inner) else name


def path_below(prefix: str, path: str) -> str:
    """Return the whole pattern of a path below a mount; the pattern of the mount alone for `"/"`."""
    return path if prefix in ("", "/") else prefix if path == "/" else prefix + path


def checked_methods(methods: Any) -> tuple[str, ...]:
    """Return the methods of a handler in upper case, with HEAD beside GET.

    Raises:
        ConfigurationError: one of them is no method, or there is none.
    """
    if isinstance(methods, str):
        raise ConfigurationError(f"methods is a list: write [{methods!r}]")
    names = [name.upper() if isinstance(name, str) else name for name in methods]
    if not names:
        raise ConfigurationError("methods is empty; leave it out for GET")
    for name in names:
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no HTTP method such as 'POST'")
    read = READING if "GET" in names else ()
    return tuple(dict.fromkeys((*read, *names)))
