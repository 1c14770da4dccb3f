"""Redirects: where one leads to, and what it may carry along.

A redirect is an answer of a server, so what it can do is limited. It never leads from wss to ws, where a network could
read and change everything. At another origin the client sends no header fields of the program, cookies and
Authorization included, because each of them can be a secret for the first server only.
"""

from __future__ import annotations

from urllib.parse import urldefrag, urljoin

from pywsapp._connecting.arguments import ConnectArguments
from pywsapp._connecting.target import parse_url
from pywsapp.exceptions import ConfigurationError, HandshakeError

_STATUSES = frozenset({301, 302, 303, 307, 308})
_MAX_LOCATION = 4096  # characters
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def is_redirect(exc: HandshakeError) -> bool:
    """Return whether an answer is a redirect that can be followed."""
    return exc.status in _STATUSES and exc.headers is not None and bool(exc.headers.getlist("location"))


def redirected(arguments: ConnectArguments, exc: HandshakeError) -> ConnectArguments:
    """Return the arguments of the connection that a redirect leads to.

    Raises:
        HandshakeError: the redirect cannot be followed.
    """
    locations = [] if exc.headers is None else exc.headers.getlist("location")
    if len(locations) != 1 or len(locations[0]) > _MAX_LOCATION:
        raise HandshakeError("the server's redirect has several locations or one that is too long", exc.status)
    old = arguments.target
    base = f"{'https' if old.secure else 'http'}://{old.host_field}{old.path}"
    try:
        scheme, separator, rest = urldefrag(urljoin(base, locations[0])).url.partition(":")
        url = _SCHEMES.get(scheme.lower(), scheme) + separator + rest
        target = parse_url(url)
        arguments = arguments._replace(target=target)
        if target.origin == old.origin:
            return arguments.renewed()
        if old.secure and not target.secure:
            raise HandshakeError("the server redirects from wss to ws, which is never followed", exc.status)
        return arguments._replace(
            server_hostname=None,
            subprotocols=tuple(name for name in arguments.subprotocols if not name.startswith("bearer.")),
        ).renewed(tuple(field for field in arguments.fields if field[0] == "Origin"))
    except (ConfigurationError, ValueError) as invalid:
        raise HandshakeError(f"the server's redirect cannot be followed: {invalid}", exc.status) from None
