"""Mutual TLS with real certificates: who is accepted, and what the certificate says."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trustme
from support.wire import running

from pywsapp import App, Connection, HandshakeError, InvalidCredentials, MessageComponent, Request, connect
from pywsapp.auth import ClientCertificateAuthenticator
from pywsapp.auth.client_certificate import ClientCertificate, parse_certificate

pytestmark = pytest.mark.anyio

AUTHORITY, CLIENTS, STRANGERS = trustme.CA(), trustme.CA(), trustme.CA()


class Greeting(MessageComponent):
    def on_open(self, conn: Connection) -> None:
        user = conn.user
        conn.send(f"{user.emails} {user.common_name}" if isinstance(user, ClientCertificate) else str(user))


def server_context(verify: ssl.VerifyMode = ssl.CERT_REQUIRED) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    CLIENTS.configure_trust(context)
    context.verify_mode = verify
    return context


def client_context(authority: trustme.CA | None = CLIENTS, common_name: str | None = "Ana") -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if authority is not None:
        authority.issue_cert("ana@example.com", common_name=common_name).configure_cert(context)
    return context


@asynccontextmanager
async def serving(guard: Any, verify: ssl.VerifyMode = ssl.CERT_REQUIRED) -> AsyncIterator[str]:
    app = App("*", 0, tls=server_context(verify), authenticate=guard)
    app.route("/x", Greeting())
    async with running(app):
        yield f"wss://localhost:{app.port}/x"


async def greeting(url: str, tls: ssl.SSLContext) -> Any:
    async with connect(url, tls=tls) as conn:
        return await conn.receive()


async def test_a_certificate_is_the_user() -> None:
    async with serving(ClientCertificateAuthenticator()) as url:
        assert await greeting(url, client_context()) == "('ana@example.com',) Ana"


@pytest.mark.parametrize("later", [False, True])
async def test_a_function_makes_the_user(later: bool) -> None:
    def make(certificate: ClientCertificate) -> Any:
        return {"Ana": "user 7"}.get(certificate.common_name or "")

    async def make_later(certificate: ClientCertificate) -> Any:
        await anyio.lowlevel.checkpoint()
        return make(certificate)

    async with serving(ClientCertificateAuthenticator(make_later if later else make)) as url:
        assert await greeting(url, client_context()) == "user 7"
        with pytest.raises(HandshakeError) as caught:
            await greeting(url, client_context(common_name="Bob"))
        assert caught.value.status == 401


@pytest.mark.parametrize("authority", [None, STRANGERS], ids=["none", "stranger"])
async def test_other_certificates_are_refused_by_tls(authority: trustme.CA | None) -> None:
    async with serving(ClientCertificateAuthenticator()) as url:
        with pytest.raises((HandshakeError, OSError)) as caught:
            await greeting(url, client_context(authority))
        assert getattr(caught.value, "status", None) is None


async def test_an_optional_certificate() -> None:
    async with serving(ClientCertificateAuthenticator(), ssl.CERT_OPTIONAL) as url:
        assert await greeting(url, client_context()) == "('ana@example.com',) Ana"
        with pytest.raises(HandshakeError) as caught:
            await greeting(url, client_context(None))
        assert caught.value.status == 401


async def test_without_verification_there_is_no_certificate() -> None:
    async with serving(ClientCertificateAuthenticator(), ssl.CERT_NONE) as url:
        with pytest.raises(HandshakeError) as caught:
            await greeting(url, client_context())
        assert caught.value.status == 401


def test_what_a_certificate_says() -> None:
    certificate = parse_certificate(
        {
            "subject": ((("organizationName", "Shop"),), (("commonName", "Ana"),)),
            "issuer": ((("commonName", "Clients"),),),
            "serialNumber": "0A",
            "notAfter": "Jan  1 00:00:00 2026 GMT",
            "subjectAltName": (("DNS", "a"), ("URI", "spiffe://a/b"), ("email", "a@b"), ("DNS", "c")),
        }
    )
    assert certificate == ClientCertificate("Ana", ("a", "c"), ("a@b",), ("spiffe://a/b",), "0A", "Clients", 1767225600)
    assert parse_certificate({"notAfter": "Jan  1 00:00:00 2026 GMT"}).common_name is None
    two = ((("commonName", "Ana"),), (("commonName", "Bob"),))
    assert parse_certificate({"notAfter": "Jan  1 00:00:00 2026 GMT", "subject": two}).common_name is None


async def test_the_certificate_is_there_without_the_authenticator() -> None:
    seen: list[Any] = []
    app = App("*", 0, tls=server_context())

    class Watching(MessageComponent):
        def on_handshake(self, request: Request) -> None:
            seen.append((request.client_certificate or {}).get("subjectAltName"))

        def on_open(self, conn: Connection) -> None:
            conn.send(str((conn.request.client_certificate or {}).get("subjectAltName")))

    app.route("/x", Watching())
    async with running(app):
        expected = (("email", "ana@example.com"),)
        assert await greeting(f"wss://localhost:{app.port}/x", client_context()) == str(expected)
    assert seen == [expected]


def test_the_user_ends_with_the_certificate() -> None:
    request = Request(user="x")
    fields = {"notAfter": "Jan  1 00:00:00 2026 GMT"}
    request._state._pywsapp_access.certificate = fields  # type: ignore[union-attr]
    found: Any = ClientCertificateAuthenticator(lambda certificate: "ana")(request)
    assert (found.user, found.expires_at) == ("ana", 1767225600)
    assert found.expires_at < time.time()
    with pytest.raises(InvalidCredentials, match="not known"):
        ClientCertificateAuthenticator(lambda certificate: None)(request)
