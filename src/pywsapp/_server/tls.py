"""Create TLS contexts from files; error messages name the file that is wrong.

The minimum is TLS 1.2 (RFC 9325). ALPN is `http/1.1` (RFC 7301), because a WebSocket begins as HTTP/1.1.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from pywsapp._log_fields import log_fields
from pywsapp._request_state import make_access
from pywsapp._server.tls_alerts import AlertingContext
from pywsapp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pywsapp._transports.base import Transport
    from pywsapp.http import Request

logger = logging.getLogger("pywsapp")

FilePath = str | os.PathLike[str]
Password = str | bytes | Callable[[], str | bytes]


def server_context(
    certificate: FilePath,
    key: FilePath | None = None,
    password: Password | None = None,
    client_ca: FilePath | None = None,
    *,
    needs_client_certificate: bool = True,
) -> ssl.SSLContext:
    """Create the TLS context of a server; reads the files, so it blocks.

    Args:
        certificate: PEM file with the certificate, followed by its chain.
        key: PEM file with the private key; by default the certificate's file.
        password: the password of an encrypted key, or a function that returns it.
        client_ca: PEM file with the authorities of clients; clients are asked for a certificate then.
        needs_client_certificate: whether a client without a certificate is refused.

    Raises:
        ConfigurationError: a file is missing, unreadable or not PEM, or the key does not belong to the certificate.
    """
    pem = _read_pem(certificate, "certificate", b"CERTIFICATE-----")
    if key is not None:
        _read_pem(key, "key", b"PRIVATE KEY-----")
    elif b"PRIVATE KEY-----" not in pem:
        raise ConfigurationError(
            f"the TLS certificate file {_name(certificate)} has no private key: pass the file of the key too"
        )
    context = AlertingContext(ssl.PROTOCOL_TLS_SERVER) if client_ca else ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, _refuse_to_ask if password is None else password)
    except ssl.SSLError as exc:
        names = f"{_name(certificate)} and {_name(certificate if key is None else key)}"
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"TLS certificate and key do not belong together: {names}") from exc
        raise ConfigurationError(f"TLS certificate or key is damaged, or the password is wrong: {names}") from exc
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if needs_client_certificate else ssl.CERT_OPTIONAL
    # With renegotiations alone, a peer of TLS 1.2 could keep a processor busy.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # A client gets a new ticket with each session that it resumes, so it does not need the usual second one.
    context.num_tickets = 1
    return _harden(context)


def client_context(ca: FilePath | None = None) -> ssl.SSLContext:
    """Create the TLS context of a client, which verifies the server's certificate and name; reads files, so it blocks.

    Args:
        ca: PEM file with the trusted authorities; by default the system's.

    Raises:
        ConfigurationError: the file is missing, unreadable or not PEM.
    """
    if ca is None:
        return _harden(ssl.create_default_context())
    _read_pem(ca, "authority", b"CERTIFICATE-----")
    try:
        return _harden(ssl.create_default_context(cafile=ca))
    except ssl.SSLError as exc:
        raise ConfigurationError(f"the TLS authority file {_name(ca)} is damaged") from exc


def check_server_context(context: ssl.SSLContext) -> None:
    """Check a context of the program. A context that permits renegotiation is logged as a warning.

    Raises:
        ConfigurationError: the context is a client's.
    """
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ConfigurationError(
            "this SSLContext is a client's and cannot serve: create it with ssl.Purpose.CLIENT_AUTH, or pass "
            "(certificate file, key file) instead"
        )
    if not context.options & ssl.OP_NO_RENEGOTIATION and context.minimum_version < ssl.TLSVersion.TLSv1_3:
        logger.warning(
            "the SSLContext permits TLS renegotiation, with which a client of TLS 1.2 can keep the processor busy: "
            "set context.options |= ssl.OP_NO_RENEGOTIATION, or pass (certificate file, key file) instead",
            extra=log_fields("tls.renegotiation_possible"),
        )


def _trust(context: ssl.SSLContext, ca: FilePath) -> None:
    _read_pem(ca, "authority", b"CERTIFICATE-----")
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as exc:
        raise ConfigurationError(f"the TLS authority file {_name(ca)} is damaged") from exc


def _harden(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read_pem(path: FilePath, what: str, marker: bytes) -> bytes:
    """Read a file to find out what is wrong with it, because OpenSSL's errors name no file."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as exc:
        raise ConfigurationError(f"the TLS {what} file {_name(path)} does not exist") from exc
    except OSError as exc:
        raise ConfigurationError(f"the TLS {what} file {_name(path)} cannot be read: {exc.strerror}") from exc
    if marker not in content:
        raise ConfigurationError(f"the TLS {what} file {_name(path)} has no PEM {marker.strip(b'-').decode().lower()}")
    return content


def _refuse_to_ask() -> str:
    # Without this function OpenSSL asks for the password at the terminal, and a server without a terminal hangs.
    raise ConfigurationError("the TLS key is encrypted: pass its password")


def _name(path: FilePath) -> str:
    return repr(os.fspath(path))


def note_certificate(request: Request, transport: Transport) -> None:
    """Store the certificate of the client, if the context of the server verifies certificates of clients."""
    ssl_object = transport.get_extra_info("ssl_object")
    if ssl_object is not None and ssl_object.context.verify_mode != ssl.CERT_NONE:
        make_access(request).certificate = ssl_object.getpeercert() or None
