"""The unsafe settings of an App, and how to fix them."""

from __future__ import annotations

import math
import os
import ssl
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from pywsapp._server.bind import ListeningSocket
from pywsapp._server.tls_reload import ReloadingTls
from pywsapp.app import App
from pywsapp.brokers.local.broker import LocalBroker
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.cli.route_table import PROBE, WEBSOCKET, FoundRoute
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options

WARNING, NOTE = "warning", "note"
#: Options in bytes, and the value above which one client can make the server keep very much.
_MUCH = {"max_message_size": 64 << 20, "max_outbox": 64 << 20, "max_header_size": 1 << 20}
#: Options whose None sets no limit that keeps the server safe, and what happens then.
_NONE = {
    "min_http_rate": "a client can keep an HTTP connection open with a byte now and then",
    "ping_interval": "the server does not notice clients that are gone",
    "max_invalid_messages": "a client can send invalid messages for ever",
}
#: Prefix lengths below which a network of trusted proxies is wider than those of the large CDNs.
_WIDE = {4: 8, 6: 19}
_MAX_NAMED = 10


class Finding(NamedTuple):
    """Something that deserves attention.

    Attributes:
        level: "warning", or "note" for what is often intended.
        name: its name, such as "open-origins".
        text: what is the case, and what can happen.
        fix: what to write instead.
    """

    level: str
    name: str
    text: str
    fix: str


def findings(app: App, routes: Sequence[FoundRoute], workers: int) -> list[Finding]:
    """Return what is unsafe, warnings first.

    Args:
        app: the App.
        routes: its routes.
        workers: how many processes will run it.
    """
    found = [
        *_about_users(routes),
        *_about_origins(app, routes),
        *_about_sockets(app),
        *_about_proxies(app),
        *_about_processes(app, workers),
        *_about_options(app, routes),
        *_about_limits(app, routes),
        *_about_debugging(),
    ]
    return sorted(found, key=lambda finding: finding.level == NOTE)


def _about_users(routes: Sequence[FoundRoute]) -> Iterator[Finding]:
    guarded = [route for route in routes if route.needs_user]
    unguarded = [route for route in routes if route.guard is None and route.kind != PROBE]
    if guarded and unguarded:
        yield Finding(
            WARNING,
            "no-authenticate",
            f"other routes need a user, but these have no authenticate: {_named(unguarded)}",
            "write authenticate=... on the route or on the App, or authenticate=public if the route needs no user",
        )
    connecting = [route for route in unguarded if route.takes_connections]
    if not guarded and connecting:
        yield Finding(
            NOTE,
            "everyone-connects",
            f"no route has authenticate, so everyone can connect to: {_named(connecting)}",
            "write App(authenticate=...) if clients have users; authenticate=public says that they have none",
        )


def _about_origins(app: App, routes: Sequence[FoundRoute]) -> Iterator[Finding]:
    unchecked = [route for route in routes if route.kind == WEBSOCKET and not route.origin_checks]
    if unchecked:
        yield Finding(
            WARNING,
            "no-origin-check",
            f"a page of any site can connect, because nothing checks its origin: {_named(unchecked)}",
            "route the component with app.route, or put OriginCheck around it",
        )
    opened = [route for route in routes if route.any_origin]
    with_users = [route for route in opened if route.needs_user or route.has_sessions]
    others = [route for route in opened if route not in with_users]
    if with_users:
        yield Finding(
            WARNING,
            "open-origins",
            f"a page of any site can connect with the cookies of your users: {_named(with_users)}",
            "list your pages in allowed_origins in place of '*' or 'null'",
        )
    if others:
        yield Finding(
            NOTE,
            "open-origins",
            f"a page of any site can connect, because allowed_origins has '*' or 'null': {_named(others)}",
            "list your pages in allowed_origins, unless the data is for everyone",
        )
    rebound = [route for route in routes if route.takes_connections and route.same_origin and route.host == "*"]
    if rebound:
        yield Finding(
            WARNING,
            "any-host",
            "a page that makes its own name resolve to this server (DNS rebinding) has the same origin as the server, "
            f"because http_host is '*': {_named(rebound)}",
            "write the names of the server as http_host, or list your pages in allowed_origins",
        )


def _about_sockets(app: App) -> Iterator[Finding]:
    for listener in app._runner._listening.sockets:
        tls = listener.tls
        if isinstance(tls, ReloadingTls) and tls.settings.is_self_signed:
            yield Finding(
                WARNING,
                "self-signed",
                "the certificate is self-signed, for development only",
                "use a certificate of an authority: App(tls=(certificate, key))",
            )
        if isinstance(tls, ssl.SSLContext):
            yield from _about_context(tls)
        if tls is None and _is_public(listener) and not app._runner._proxies:
            yield Finding(
                WARNING,
                "no-tls",
                f"the server listens on {listener.address or 'all addresses'} without TLS, so others on the way can "
                "read and change everything",
                "use App(tls=...), or put a proxy that ends TLS in front of it and name it in trusted_proxies",
            )


def _about_context(context: ssl.SSLContext) -> Iterator[Finding]:
    oldest = context.minimum_version
    if oldest in (ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.SSLv3, ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        yield Finding(
            WARNING,
            "old-tls",
            f"the SSLContext accepts versions of TLS before 1.2 (minimum_version is {oldest.name})",
            "set context.minimum_version = ssl.TLSVersion.TLSv1_2, or pass (certificate, key) instead",
        )
    if not context.options & ssl.OP_NO_RENEGOTIATION and context.minimum_version < ssl.TLSVersion.TLSv1_3:
        yield Finding(
            WARNING,
            "tls-renegotiation",
            "the SSLContext permits renegotiation, with which a client of TLS 1.2 can keep the processor busy",
            "set context.options |= ssl.OP_NO_RENEGOTIATION, or pass (certificate, key) instead",
        )


def _is_public(listener: ListeningSocket) -> bool:
    if listener.unix_path is not None or listener.fd is not None:
        return False
    try:
        return not ip_address(listener.address).is_loopback
    except ValueError:  # a name, or "" for all addresses
        return listener.address != "localhost"


def _about_proxies(app: App) -> Iterator[Finding]:
    proxies = app._runner._proxies
    for text in proxies.networks:
        network = ip_network(text)
        if network.prefixlen < _WIDE[network.version]:
            yield Finding(
                WARNING,
                "wide-proxies",
                f"trusted_proxies has {text}: a client in it can claim any address with X-Forwarded-For, and so "
                "passes limits and lists of addresses",
                "name the addresses of your proxies only",
            )
    if not proxies and any(listener.proxy_protocol for listener in app._runner._listening.sockets):
        yield Finding(
            WARNING,
            "any-proxy",
            "proxy_protocol is on, and trusted_proxies is empty: a client that reaches the port can claim any address",
            "name the addresses of the load balancer in trusted_proxies",
        )


def _about_processes(app: App, workers: int) -> Iterator[Finding]:
    broker = app.topics.broker
    if broker is not None and not isinstance(broker, (LocalBroker, MemoryBroker)) and not app.topics.codec.is_signing:
        yield Finding(
            WARNING,
            "no-broker-key",
            "messages of the broker are not signed: a program that can write to the broker can send to every client",
            "set broker_key, or the environment variable PYWSAPP_BROKER_KEY, to the same secret on every server",
        )
    try:
        app._sessions.check_shared()
    except ConfigurationError as exc:
        if workers > 1:
            yield Finding(
                WARNING, "sessions-in-memory", str(exc), "use session_store='redis://...' or 'memcached://...'"
            )
        else:
            yield Finding(
                NOTE,
                "sessions-in-memory",
                "sessions are in the memory of one process: a restart ends them, and several workers are not possible",
                "use session_store='redis://...' or 'memcached://...'",
            )


def _about_options(app: App, routes: Sequence[FoundRoute]) -> Iterator[Finding]:
    seen: dict[str, Options] = {"the App": app.options}
    for route in routes:
        if route.takes_connections and route.options is not app.options:
            seen[route.label] = route.options
    for place, options in seen.items():
        for name, most in _MUCH.items():
            if getattr(options, name) > most:
                yield _unlimited(place, f"{name} is {getattr(options, name):,} bytes, which one client can use")
        for name, effect in _NONE.items():
            if getattr(options, name) is None:
                yield _unlimited(place, f"{name} is None: {effect}")
        for option in fields(options):
            if getattr(options, option.name) == math.inf:
                yield _unlimited(place, f"{option.name} is infinite, so nothing limits it")


def _unlimited(place: str, text: str) -> Finding:
    return Finding(WARNING, "no-limit", f"Options of {place}: {text}", "choose a number, or leave the option out")


def _about_limits(app: App, routes: Sequence[FoundRoute]) -> Iterator[Finding]:
    public = [listener for listener in app._runner._listening.sockets if _is_public(listener)]
    limits = app._runner.connection_limits
    if public and limits.max_connections_per_address is None:
        yield Finding(
            NOTE,
            "no-limit-of-addresses",
            "one address can open all connections that the server accepts",
            "set max_connections_per_address",
        )
    free = [route for route in routes if route.kind == WEBSOCKET and not route.has_rate_limit]
    if public and free:
        yield Finding(
            NOTE,
            "no-rate-limit",
            f"clients can send as many messages as the server can read: {_named(free)}",
            "put RateLimit around the component",
        )


def _about_debugging() -> Iterator[Finding]:
    if sys.flags.dev_mode or os.environ.get("PYTHONASYNCIODEBUG"):
        yield Finding(
            WARNING,
            "debug",
            "the debug mode of asyncio is on (PYTHONASYNCIODEBUG, PYTHONDEVMODE or -X dev); it is slow",
            "unset these variables in production",
        )


def _named(routes: Iterable[FoundRoute]) -> str:
    names = [route.label for route in routes]
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
