"""TLS contexts out of files, with errors that name the file that is wrong.

Minimum TLS 1.2 (RFC 9325), ALPN `http/1.1` (RFC 7301), since a WebSocket begins as HTTP/1.1.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from pywsapp.exceptions import ConfigurationError

FilePath = str | os.PathLike[str]
Password = str | bytes | Callable[[], str | bytes]


def server_context(
    certificate: FilePath, key: FilePath | None = None, password: Password | None = None
) -> ssl.SSLContext:
    """Make the TLS context of a server; reads the files at once, and so blocks.

    Args:
        certificate: PEM file with the certificate and the chain behind it.
        key: PEM file with the private key; the certificate's own file when left out.
        password: what an encrypted key is opened with, or what gives it.

    Raises:
        ConfigurationError: a file is missing, unreadable or not PEM, or the key does not belong to the certificate.
    """
    pem = _read_pem(certificate, "certificate", b"CERTIFICATE-----")
    if key is not None:
        _read_pem(key, "key", b"PRIVATE KEY-----")
    elif b"PRIVATE KEY-----" not in pem:
        raise ConfigurationError(
            f"the TLS certificate file {_name(certificate)} holds no private key: give the key's file too"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, _refuse_to_ask if password is None else password)
    except ssl.SSLError as exc:
        names = f"{_name(certificate)} and {_name(certificate if key is None else key)}"
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"TLS certificate and key do not belong together: {names}") from exc
        raise ConfigurationError(f"TLS certificate or key is damaged, or the password is wrong: {names}") from exc
    # A peer of TLS 1.2 could keep a processor busy with nothing but renegotiations.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return _harden(context)


def client_context(ca: FilePath | None = None) -> ssl.SSLContext:
    """Make the TLS context of a client, which verifies the server's certificate and name; reads files, and so blocks.

    Args:
        ca: PEM file with the authorities to trust; the system's when left out.

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


def as_server_context(tls: ssl.SSLContext | FilePath | tuple[FilePath, FilePath]) -> ssl.SSLContext:
    """Give a ready context back unchanged, or make one of a file or a pair (certificate, key).

    Raises:
        ConfigurationError: the files are unfit, or it is neither of these, or the context is a client's.
    """
    if isinstance(tls, ssl.SSLContext):
        if tls.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise ConfigurationError(
                "this SSLContext is a client's and cannot serve: make it with ssl.Purpose.CLIENT_AUTH, or give"
                " (certificate file, key file) instead"
            )
        return tls
    if isinstance(tls, (str, os.PathLike)):
        return server_context(tls)
    if isinstance(tls, tuple) and len(tls) == 2:
        return server_context(*tls)
    raise ConfigurationError(
        f"tls takes an SSLContext, a PEM file or (certificate file, key file), not {type(tls).__name__}"
    )


def _harden(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read_pem(path: FilePath, what: str, marker: bytes) -> bytes:
    """Read a file only to name what is wrong with it; OpenSSL's own errors name no file."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as exc:
        raise ConfigurationError(f"the TLS {what} file {_name(path)} does not exist") from exc
    except OSError as exc:
        raise ConfigurationError(f"the TLS {what} file {_name(path)} cannot be read: {exc.strerror}") from exc
    if marker not in content:
        raise ConfigurationError(
            f"the TLS {what} file {_name(path)} holds no PEM {marker.strip(b'-').decode().lower()}"
        )
    return content


def _refuse_to_ask() -> str:
    # Without this OpenSSL would ask at the terminal, and a server without one would hang.
    raise ConfigurationError("the TLS key is encrypted: give its password")


def _name(path: FilePath) -> str:
    return repr(os.fspath(path))
