"""The arguments of `connect` and its siblings, checked before anything is sent."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pywsapp._connecting.client_messages import AS_THEY_CAME, ClientMessages, messages_of_client
from pywsapp._connecting.proxies import parse_proxy
from pywsapp._connecting.target import Target, parse_url, shown_url
from pywsapp._extras import import_extra
from pywsapp._messages.choosing import Codecs, check_named
from pywsapp._protocol.client_handshake import ClientHandshake
from pywsapp._protocol.http import TOKEN
from pywsapp._server.tls import client_context
from pywsapp.exceptions import ConfigurationError, HeaderItems
from pywsapp.options import Options

FilePath = str | os.PathLike[str]
Fields = tuple[tuple[str, str], ...]

_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]*")  # cookie-octets (RFC 6265 section 4.1.1)


class ConnectArguments(NamedTuple):
    """The checked arguments of `connect`, `run_client` and the others.

    Attributes:
        target: where to connect to.
        fields: further header fields of the request.
        subprotocols: the subprotocols to offer.
        options: limits and timings.
        tls: the context for wss URLs; None is the default one.
        server_hostname: the name that the certificate must have; None is the host of the URL.
        unix_path: the server's Unix socket.
        proxy: the URL of a proxy, True for the one that the environment names, or None.
        proxy_tls: the context for TLS with an https proxy; None is the default one.
        max_redirects: how many redirects are followed.
        handshake: the request to send, which serves one connection.
        messages: the typed messages of the client; None if all messages stay as they are.
    """

    target: Target
    fields: Fields
    subprotocols: tuple[str, ...]
    options: Options
    tls: ssl.SSLContext | None
    server_hostname: str | None
    unix_path: str | None
    proxy: str | bool | None
    proxy_tls: ssl.SSLContext | None
    max_redirects: int
    handshake: ClientHandshake
    messages: ClientMessages | None

    def __repr__(self) -> str:
        """Return a text without header fields and proxies, which can have secrets; error trackers show it."""
        return f"<ConnectArguments {self.target}>"

    def renewed(self, fields: Fields | None = None) -> ConnectArguments:
        """Return the arguments of another connection: with a request that has another key, and with other fields.

        Raises:
            ConfigurationError: a field is invalid.
        """
        fields = self.fields if fields is None else fields
        handshake = _handshake(self.target, fields, self.subprotocols, self.options)
        return self._replace(fields=fields, handshake=handshake)


def check_arguments(
    url: str,
    *,
    options: Options | None = None,
    subprotocols: Sequence[str] = (),
    headers: HeaderItems = (),
    cookies: Mapping[str, str] | None = None,
    origin: str | None = None,
    tls: ssl.SSLContext | None = None,
    ca_file: FilePath | None = None,
    server_hostname: str | None = None,
    unix_path: FilePath | None = None,
    proxy: str | bool | None = None,
    proxy_tls: ssl.SSLContext | None = None,
    max_redirects: int = 0,
    codec: Codecs | None = None,
    message_type: Any = AS_THEY_CAME,
) -> ConnectArguments:
    """Return the checked arguments of `connect`, which documents them. Reads `ca_file`, so it blocks then.

    Raises:
        ConfigurationError: one of them is invalid.
    """
    options = Options() if options is None else options
    if not isinstance(options, Options):
        raise ConfigurationError(f"options must be an Options, not {options!r}")
    target = parse_url(url)
    for name, value in (("tls", tls), ("ca_file", ca_file), ("server_hostname", server_hostname)):
        if value is not None and not target.secure:
            raise ConfigurationError(f"{name} is for wss:// URLs, and {shown_url(url)!r} is not encrypted")
    if ca_file is not None:
        if tls is not None:
            raise ConfigurationError("write either tls or ca_file; a context loads a file by load_verify_locations")
        tls = client_context(ca_file)
    _check_route(unix_path, proxy, proxy_tls, max_redirects)
    fields = header_fields(headers, cookies, origin)
    messages = messages_of_client(codec, message_type)
    if messages is not None:
        check_named(messages.codecs, subprotocols)
        subprotocols = subprotocols or tuple(codec.name for codec in messages.codecs)
    return ConnectArguments(
        target,
        fields,
        tuple(subprotocols) if not isinstance(subprotocols, str) else (),
        options,
        tls,
        server_hostname,
        None if unix_path is None else os.fspath(unix_path),
        proxy,
        proxy_tls,
        max_redirects,
        _handshake(target, fields, subprotocols, options),
        messages,
    )


def _check_route(unix_path: object, proxy: object, proxy_tls: object, max_redirects: object) -> None:
    if not isinstance(max_redirects, int) or isinstance(max_redirects, bool) or max_redirects < 0:
        raise ConfigurationError(f"max_redirects must be a whole number from 0 on, not {max_redirects!r}")
    if unix_path is not None and (proxy or max_redirects):
        raise ConfigurationError("unix_path names a server of this machine, so it excludes proxy and max_redirects")
    parsed = parse_proxy(proxy) if proxy not in (None, True, False) else None  # type: ignore[arg-type]
    if parsed is not None and parsed.is_socks:
        import_extra("pywsapp._connecting.socks", "proxy")
    if proxy_tls is not None and proxy is not True and (parsed is None or parsed.scheme != "https"):
        raise ConfigurationError("proxy_tls is for a proxy whose URL begins with https://")


def header_fields(headers: HeaderItems, cookies: Mapping[str, str] | None = None, origin: str | None = None) -> Fields:
    """Return the fields that headers, cookies and an origin make. `ClientHandshake` checks them, the cookies excepted.

    Raises:
        ConfigurationError: a cookie is invalid, or there is a Cookie field already.
    """
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    if cookies:
        if any(str(name).lower() == "cookie" for name, _ in fields):
            raise ConfigurationError("headers has a Cookie field already: write all cookies in cookies")
        fields.append(("Cookie", _cookie_value(cookies)))
    if origin is not None:
        fields.append(("Origin", origin))
    return tuple(fields)


def _cookie_value(cookies: Mapping[str, str]) -> str:
    for name, value in cookies.items():
        if not isinstance(name, str) or TOKEN.fullmatch(name) is None:
            raise ConfigurationError(f"{name!r} is not a valid name of a cookie")
        if not isinstance(value, str) or _COOKIE_VALUE.fullmatch(value) is None:  # the value can be a secret
            raise ConfigurationError(
                f"the value of the cookie {name} has characters that a cookie cannot have, such as a blank, a comma or "
                "a semicolon: encode it as the server expects"
            )
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


def _handshake(target: Target, fields: Fields, subprotocols: Sequence[str], options: Options) -> ClientHandshake:
    return ClientHandshake(
        host=target.host_field,
        path=target.path,
        subprotocols=subprotocols,
        deflate=options.deflate,
        headers=fields,
        key=os.urandom(16),
        max_header_size=options.max_header_size,
        max_headers=options.max_headers,
    )
