"""Clients that must, or can, show a certificate: with `Tls`, and with the authenticator for them."""

from __future__ import annotations

import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme
from support.serving import GUARD
from support.wire import running

from pywsapp import App, ConfigurationError, Connection, HandshakeError, MessageComponent, Tls, connect
from pywsapp._server import tls_reload
from pywsapp.auth import ClientCertificateAuthenticator

AUTHORITY, CLIENTS, STRANGERS = trustme.CA(), trustme.CA(), trustme.CA()
TLS_VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Greeting(MessageComponent):
    def on_open(self, conn: Connection) -> None:
        conn.send(getattr(conn.user, "common_name", None) or "nobody")


@pytest.fixture
def client_ca(tmp_path: Path) -> Path:
    CLIENTS.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    return tmp_path / "clients.pem"


def issue(directory: Path, name: str) -> Path:
    path = directory / f"{name}.pem"
    AUTHORITY.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def client_context(authority: trustme.CA | None = CLIENTS) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if authority is not None:
        authority.issue_cert("ana@example.com", common_name="Ana").configure_cert(context)
    return context


def app_with(tls: Tls, guard: Any = None) -> App:
    app = App("*", 0, tls=tls, authenticate=guard)
    app.route("/", Greeting())
    return app


async def greeting(app: App, tls: ssl.SSLContext) -> Any:
    async with connect(f"wss://localhost:{app.port}/", tls=tls) as conn:
        return await conn.receive()


def refusal(port: int, context: ssl.SSLContext) -> ssl.SSLError | None:
    """Return the error that a client sees, in the handshake or at its first read (TLS 1.3); None without one."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), GUARD) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as secured,
        ):
            secured.recv(1)
    except ssl.SSLError as exc:
        return exc
    return None


@pytest.mark.anyio
@pytest.mark.parametrize("version", TLS_VERSIONS)
@pytest.mark.parametrize(
    ("authority", "alerts"),
    [
        (None, {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"}),
        (STRANGERS, {"TLSV1_ALERT_UNKNOWN_CA"}),
    ],
    ids=["none", "stranger"],
)
async def test_a_client_without_a_valid_certificate_gets_an_alert(
    authority: trustme.CA | None,
    alerts: set[str],
    version: ssl.TLSVersion,
    client_ca: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "pywsapp")
    context = client_context(authority)
    context.maximum_version = version
    async with running(app_with(Tls(issue(tmp_path, "localhost"), client_ca=client_ca))) as app:
        exc = await anyio.to_thread.run_sync(refusal, app.port, context)
        assert exc is not None
        assert exc.reason in alerts
        assert await greeting(app, client_context()) == "nobody"
    lines = [record for record in caplog.records if "failed before its transport" in record.getMessage()]
    assert [record.levelname for record in lines] == ["DEBUG"]
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["required", "optional"])
async def test_the_certificate_is_the_user(kind: Any, client_ca: Path, tmp_path: Path) -> None:
    tls = Tls(issue(tmp_path, "localhost"), client_ca=client_ca, client_certificate=kind)
    async with running(app_with(tls, ClientCertificateAuthenticator())) as app:
        assert await greeting(app, client_context()) == "Ana"
        with pytest.raises((HandshakeError, OSError)) as caught:
            await greeting(app, client_context(None))
        assert getattr(caught.value, "status", None) == (401 if kind == "optional" else None)
        with pytest.raises((HandshakeError, OSError)) as caught:
            await greeting(app, client_context(STRANGERS))
        assert getattr(caught.value, "status", None) is None


@pytest.mark.anyio
async def test_a_host_asks_for_the_certificate_too(client_ca: Path, tmp_path: Path) -> None:
    hosts = {"localhost": issue(tmp_path, "localhost")}
    tls = Tls(issue(tmp_path, "default.example"), client_ca=client_ca, hosts=hosts)
    async with running(app_with(tls, ClientCertificateAuthenticator())) as app:
        assert await greeting(app, client_context()) == "Ana"
        assert await anyio.to_thread.run_sync(refusal, app.port, client_context(None)) is not None
        assert await anyio.to_thread.run_sync(refusal, app.port, client_context(STRANGERS)) is not None


@pytest.mark.anyio
@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_an_authority_that_is_removed_is_not_trusted_any_more(
    version: ssl.TLSVersion, client_ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has a session ticket of before is refused too."""
    monkeypatch.setattr(tls_reload, "CHECK_SECONDS", 0.05)
    tls = Tls(issue(tmp_path, "localhost"), client_ca=client_ca)
    context = client_context(STRANGERS)
    context.maximum_version = version
    with anyio.fail_after(GUARD):
        async with running(app_with(tls, ClientCertificateAuthenticator())) as app:
            with client_ca.open("ab") as file:
                file.write(STRANGERS.cert_pem.bytes())
            while not await anyio.to_thread.run_sync(is_served, app.port, context):
                pass
            session = await anyio.to_thread.run_sync(session_with, app.port, context)
            assert await anyio.to_thread.run_sync(is_served, app.port, context, session)
            client_ca.write_bytes(CLIENTS.cert_pem.bytes())
            while await anyio.to_thread.run_sync(is_served, app.port, context):
                pass
            assert not await anyio.to_thread.run_sync(is_served, app.port, context, session)
            assert await greeting(app, client_context()) == "Ana"


def session_with(port: int, context: ssl.SSLContext) -> ssl.SSLSession:
    """Return the TLS session of a request."""
    with (
        socket.create_connection(("127.0.0.1", port), GUARD) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as secured,
    ):
        answer(secured)
        assert secured.session is not None
        return secured.session


def is_served(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> bool:
    """Return whether a client gets a response; with a session, the client must resume it."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), GUARD) as sock,
            context.wrap_socket(sock, server_hostname="localhost", session=session) as secured,
        ):
            return answer(secured) != b"" and (session is None or secured.session_reused is True)
    except OSError:
        return False


def answer(secured: ssl.SSLSocket) -> bytes:
    secured.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while piece := secured.recv(65536):
        received += piece
    return received


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"client_ca": 7}, "client_ca of Tls must be the path of a PEM file, not 7"),
        ({"client_ca": "a.pem", "client_certificate": True}, "must be 'required' or 'optional', not True"),
        ({"client_certificate": "optional"}, "client_certificate of Tls needs client_ca"),
    ],
)
def test_mistakes_in_client_certificates(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Tls("a.pem", **options)


def test_files_of_authorities_that_are_wrong(tmp_path: Path) -> None:
    certificate = issue(tmp_path, "localhost")
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "damaged").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    for name, text in [
        ("no", r"the TLS authority file '.*no' does not exist"),
        ("text", "has no PEM certificate"),
        ("damaged", r"the TLS authority file '.*damaged' is damaged"),
    ]:
        with pytest.raises(ConfigurationError, match=text):
            App(tls=Tls(certificate, client_ca=tmp_path / name))
