"""The identity in the certificate of a client (mutual TLS).

    tls = Tls("server.pem", client_ca="clients.pem")
    app = App(tls=tls, authenticate=ClientCertificateAuthenticator())

The TLS handshake checks that the certificate is signed by `client_ca` and that the client has its key. The authority
must be one that signs for these clients only: every client with a certificate of it is a user. TLS must end at this
server; the header fields of a proxy are not read.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pywsapp._signatures import check_takes
from pywsapp.auth.identity import Authenticated, as_identity
from pywsapp.exceptions import InvalidCredentials
from pywsapp.http import Request


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The names of the owner of a certificate.

    Attributes:
        common_name: the common name of the subject; None without one.
        dns_names: the host names among the alternative names.
        emails: the addresses among them.
        uris: the URIs among them, such as a SPIFFE id.
        serial_number: the serial number, as hexadecimal digits.
        issuer: the common name of the authority; None without one.
        expires_at: when it ends, in seconds since 1970.
    """

    common_name: str | None
    dns_names: tuple[str, ...]
    emails: tuple[str, ...]
    uris: tuple[str, ...]
    serial_number: str
    issuer: str | None
    expires_at: float


class ClientCertificateAuthenticator:
    """An authenticator for certificates of clients. The connection is closed with 4401 when the certificate ends.

    Args:
        user: a def or async def that takes the `ClientCertificate` and returns the user, or None for one that is not
            known. By default the `ClientCertificate` is the user.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    challenge = None

    def __init__(self, user: Callable[[ClientCertificate], Any] | None = None) -> None:
        if user is not None:
            check_takes(user, ("certificate",), "user")
        self._make_user = user

    def __repr__(self) -> str:
        return "ClientCertificateAuthenticator()"

    def __call__(self, request: Request) -> Authenticated | Awaitable[Authenticated] | None:
        """Return the user of the certificate; None if the client has sent none, or the context asks for none.

        Raises:
            InvalidCredentials: the function of the program does not know the certificate.
        """
        fields = request.client_certificate
        if fields is None:
            return None
        certificate = parse_certificate(fields)
        found = certificate if self._make_user is None else self._make_user(certificate)
        if isinstance(found, Awaitable):
            return _later(found, certificate)
        return _expiring(found, certificate)


async def _later(found: Awaitable[Any], certificate: ClientCertificate) -> Authenticated:
    return _expiring(await found, certificate)


def _expiring(found: Any, certificate: ClientCertificate) -> Authenticated:
    if found is None:
        raise InvalidCredentials("the certificate is not known here")
    identity = as_identity(found)
    return Authenticated(identity.user, certificate.expires_at, identity.subject)


def parse_certificate(fields: dict[str, Any]) -> ClientCertificate:
    """Return the content of a certificate, from the dict of `ssl.SSLSocket.getpeercert`."""
    names = fields.get("subjectAltName", ())

    def named(kind: str) -> tuple[str, ...]:
        return tuple([value for key, value in names if key == kind])

    return ClientCertificate(
        common_name=_common_name(fields.get("subject", ())),
        dns_names=named("DNS"),
        emails=named("email"),
        uris=named("URI"),
        serial_number=fields.get("serialNumber", ""),
        issuer=_common_name(fields.get("issuer", ())),
        expires_at=float(ssl.cert_time_to_seconds(fields["notAfter"])),
    )


def _common_name(subject: Any) -> str | None:
    """Return the common name; None if there is none, or more than one, because it would not be clear who is meant."""
    found = [value for part in subject for key, value in part if key == "commonName"]
    return found[0] if len(found) == 1 else None
