"""`pywsapp connect`: talk to a WebSocket server from the terminal, or from a pipe."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from pywsapp.cli.numbers import bytes_number, positive, seconds
from pywsapp.cli.parser import Parser, add_command
from pywsapp.cli.tables import safe

if TYPE_CHECKING:
    from pywsapp.client import ConnectKeywords, SyncConnection
    from pywsapp.exceptions import HandshakeError

#: The environment variable for `--token`.
TOKEN_VARIABLE = "PYWSAPP_TOKEN"
#: Hints about a certificate, by the code of OpenSSL; in other cases its authority is not known.
_CERTIFICATES = {
    10: "the server needs a new certificate",  # X509_V_ERR_CERT_HAS_EXPIRED
    62: "write a name of the certificate in the URL",  # X509_V_ERR_HOSTNAME_MISMATCH
    64: "write a name of the certificate in the URL",  # X509_V_ERR_IP_ADDRESS_MISMATCH
}
_EPILOG = (
    "In a terminal, /help lists the commands. In a pipe, each line of the input is sent as a message, and each message "
    "is written as a line, a binary one as base64. The status is 0 after a normal end, 1 otherwise. "
    f"The environment variable {TOKEN_VARIABLE} is --token, which other users of the machine cannot read."
)


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(commands, "connect", _act, help="talk to a WebSocket server", epilog=_EPILOG)
    add_client_options(command)
    command.add_argument("--json", action="store_true", help="show JSON with line breaks and colours")
    command.add_argument("--no-history", action="store_true", help="neither read nor write the history of lines")
    command.add_argument(
        "--wait", type=seconds, default=1.0, metavar="SECONDS", help="after the end of a pipe: how long to receive (1)"
    )


def add_client_options(command: Parser) -> None:
    """Add the URL, and how to connect."""
    command.add_argument("url", metavar="URL", help="ws://..., wss://..., or localhost:8080/chat")
    command.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="a header field, also several times"
    )
    command.add_argument(
        "--subprotocol", action="append", default=[], metavar="NAME", help="offer a subprotocol, also several times"
    )
    command.add_argument("--origin", help="the page that connects: https://app.example")
    command.add_argument("--token", help=f"send Authorization: Bearer TOKEN [{TOKEN_VARIABLE}]")
    command.add_argument(
        "--ca-file", metavar="FILE", help="trust these authorities, a PEM file, in place of the system's"
    )
    command.add_argument("--insecure", action="store_true", help="do not check the certificate of the server")
    command.add_argument("--compress", action="store_true", help="offer compression (permessage-deflate)")
    command.add_argument(
        "--timeout", type=positive, default=10.0, metavar="SECONDS", help="how long connecting can take (10)"
    )
    command.add_argument(
        "--max-message-size",
        type=bytes_number,
        default=16 << 20,
        metavar="BYTES",
        help="close the connection after a larger message (16m)",
    )


def url_of(chosen: argparse.Namespace) -> str:
    """Return the URL with its scheme: ws for a name without one, and for http."""
    text: str = chosen.url
    if "://" not in text:
        return f"ws://{text}"
    scheme, _, rest = text.partition("://")
    return f"{ {'http': 'ws', 'https': 'wss'}.get(scheme.lower(), scheme) }://{rest}"


def keywords_of(chosen: argparse.Namespace) -> ConnectKeywords:
    """Return the arguments of `connect` that the options select, without the header fields."""
    import ssl

    from pywsapp.options import Deflate, Options

    context = None
    if chosen.insecure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return {
        "subprotocols": chosen.subprotocol,
        "origin": chosen.origin,
        "tls": context,
        "ca_file": chosen.ca_file,
        "options": Options(
            handshake_timeout=chosen.timeout,
            max_message_size=chosen.max_message_size,
            deflate=Deflate() if chosen.compress else None,
        ),
    }


def headers_of(chosen: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the header fields that the options select."""
    fields = []
    for text in chosen.header:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            chosen.parser.error(f"argument --header: must be 'NAME: VALUE', not {text!r}")
        fields.append((name.strip(), value.strip()))
    token = chosen.token or os.environ.get(TOKEN_VARIABLE)
    if token:
        fields.append(("Authorization", f"Bearer {token}"))
    return fields


def shown(url: str) -> str:
    """Return a URL for a terminal or a log: without its query and its user, which can be secrets."""
    from pywsapp._connecting.target import shown_url

    return safe(shown_url(url))


def why_not(url: str, exc: Exception) -> str:
    """Return why a connection was not opened, with the answer of the server if there is one."""
    from pywsapp.exceptions import HandshakeError

    if not isinstance(exc, HandshakeError):
        return f"pywsapp: cannot connect to {shown(url)}: {safe(reason_of(exc))}\n"
    hint = ""
    if exc.status is None and url.startswith("ws://"):
        hint = "; if the server speaks TLS, write wss:// in the URL"
    return f"pywsapp: {safe(str(exc))}{hint}\n{_answer(exc)}"


def reason_of(exc: Exception) -> str:
    """Return why a connection was not opened, with what to do about it if that is known."""
    import errno
    import socket
    import ssl

    if isinstance(exc, ssl.SSLCertVerificationError):
        hint = _CERTIFICATES.get(exc.verify_code, "trust its authority with --ca-file")
        return f"{exc.verify_message.rstrip('.')}; {hint}, or use --insecure for a test"
    if isinstance(exc, ssl.SSLError) and exc.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS; write ws:// in place of wss://"
    if isinstance(exc, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(exc, OSError) and exc.errno == errno.EMFILE:
        return "too many open files; raise the limit with ulimit -n"
    if isinstance(exc, OSError) and exc.errno and not isinstance(exc, (socket.gaierror, ssl.SSLError)):
        return os.strerror(exc.errno)  # the text of asyncio has a tuple with the address
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def _answer(exc: HandshakeError) -> str:
    if exc.status is None:
        return ""
    lines = [f"status: {exc.status}"]
    if exc.headers is not None:
        names = ("location", "retry-after", "www-authenticate")
        lines += [f"{name}: {exc.headers.get(name)}" for name in names if exc.headers.get(name)]
    if exc.body:
        lines.append(exc.body.decode("utf-8", "replace").rstrip())
    return "".join(f"    {safe(line)}\n" for text in lines for line in text.splitlines())


def _act(chosen: argparse.Namespace) -> int:
    from pywsapp.client import connect_sync
    from pywsapp.exceptions import HandshakeError

    url, headers = url_of(chosen), headers_of(chosen)
    try:
        conn = connect_sync(url, headers=headers, **keywords_of(chosen))
    except (HandshakeError, OSError) as exc:
        sys.stderr.write(why_not(url, exc))
        return 1
    except KeyboardInterrupt:
        return 130
    return _talk(conn, url, chosen)


def _talk(conn: SyncConnection, url: str, chosen: argparse.Namespace) -> int:
    from pywsapp.cli import conversation, piping

    if sys.stdin is None or not (sys.stdin.isatty() and sys.stdout.isatty()):  # None: closed, as by `<&-`
        return piping.pipe(conn, chosen.wait)
    return conversation.talk(conn, shown(url), pretty=chosen.json, has_history=not chosen.no_history)
