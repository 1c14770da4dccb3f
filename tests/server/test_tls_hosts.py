"""Several certificates on one listening socket, by the name that a client asks for (SNI)."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme
from support.serving import GUARD
from support.wire import running

from pywsapp import App, ConfigurationError, EchoServer, Tls, connect
from pywsapp._server import tls_reload

AUTHORITY = trustme.CA()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def issue(directory: Path, *names: str) -> tuple[Path, Path]:
    """Issue a certificate for names, and return its files; they replace those of the same names."""
    issued = AUTHORITY.issue_cert(*names)
    certificate, key = directory / f"{names[0].strip('*.')}.pem", directory / f"{names[0].strip('*.')}.key"
    for path, blob in ((key, issued.private_key_pem), (certificate, issued.cert_chain_pems[0])):
        part = path.with_suffix(".part")
        part.write_bytes(blob.bytes())
        part.replace(path)
    return certificate, key


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    b = issue(tmp_path, "b.example.com")
    both = tmp_path / "both.pem"
    both.write_bytes(b[1].read_bytes() + b[0].read_bytes())
    hosts: dict[str, Any] = {"a.example.com": issue(tmp_path, "a.example.com"), "B.Example.com.": both}
    return Tls(
        *issue(tmp_path, "default.example"),
        hosts={**hosts, "*.wild.example": issue(tmp_path, "*.wild.example"), "bücher.example": both},
    )


async def names_for(port: int, name: str | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[str, ...]:
    """Return the names in the certificate that a client gets which asks for a name."""
    return await anyio.to_thread.run_sync(_names_for, port, name, version)


def _names_for(port: int, name: str | None, version: ssl.TLSVersion) -> tuple[str, ...]:
    context = trusting()
    context.check_hostname = False
    context.maximum_version = version
    context.set_alpn_protocols(["http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), GUARD) as sock,
        context.wrap_socket(sock, server_hostname=name) as secured,
    ):
        assert secured.selected_alpn_protocol() == "http/1.1"
        found: dict[str, Any] = secured.getpeercert() or {}
    return tuple(value for _, value in found["subjectAltName"])


def serving(tls: Tls) -> App:
    app = App("*", 0, tls=tls)
    app.route("/", EchoServer())
    return app


@pytest.mark.anyio
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_gets_the_certificate_of_the_name(
    version: ssl.TLSVersion, tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(serving(tls)) as app:
        for name, expected in [
            ("a.example.com", "a.example.com"),
            ("A.EXAMPLE.com", "a.example.com"),
            ("b.example.com", "b.example.com"),
            ("bücher.example", "b.example.com"),
            ("x.wild.example", "*.wild.example"),
            ("x.y.wild.example", "default.example"),
            ("wild.example", "default.example"),
            ("other.example", "default.example"),
            (None, "default.example"),
        ]:
            assert await names_for(app.port, name, version) == (expected,), name
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.anyio
async def test_messages_and_the_protocol_over_the_certificate_of_a_host(tls: Tls, tmp_path: Path) -> None:
    settings = Tls(tls.certificate, tls.key, hosts={"localhost": issue(tmp_path, "localhost")})
    async with running(serving(settings)) as app, connect(f"wss://localhost:{app.port}/", tls=trusting()) as conn:
        conn.send("x" * 100_000)
        assert await conn.receive() == "x" * 100_000


@pytest.mark.anyio
async def test_the_certificate_of_a_host_is_reloaded_alone(
    tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One broken certificate does not keep the others from being renewed."""
    monkeypatch.setattr(tls_reload, "CHECK_SECONDS", 0.05)
    async with running(serving(tls)) as app:
        (tmp_path / "default.example.pem").write_text("broken")
        certificate, key = issue(tmp_path, "new.example.com")
        key.replace(tmp_path / "a.example.com.key")
        certificate.replace(tmp_path / "a.example.com.pem")
        with anyio.fail_after(GUARD):
            while await names_for(app.port, "a.example.com") != ("new.example.com",):
                pass
        assert await names_for(app.port, None) == ("default.example",)
        assert await names_for(app.port, "b.example.com") == ("b.example.com",)


@pytest.mark.anyio
@pytest.mark.parametrize("name", [b"\xff\xfe.example", b"a\nb.example", b"x" * 255, b"*.wild.example", b"."])
async def test_a_hostile_name_gets_nothing_into_the_log(
    name: bytes, tls: Tls, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Clients can send any bytes as the name; they are neither logged nor printed unescaped."""
    caplog.set_level(logging.DEBUG, "pywsapp")
    placeholder = ("p" * 60 + ".") * (len(name) // 60) + "p" * len(name)
    placeholder = placeholder[: len(name)]
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = context.wrap_bio(incoming, outgoing, server_hostname=placeholder)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read().replace(placeholder.encode(), name)
    async with running(serving(tls)) as app:
        stream = await anyio.connect_tcp("127.0.0.1", app.port)
        async with stream:
            await stream.send(hello)
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
        assert await names_for(app.port, "a.example.com") == ("a.example.com",)
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ([], "hosts of Tls must be a dict, not list"),
        ({"": "a.pem"}, "a name in hosts of Tls is a host name such as 'a.example.com', not ''"),
        ({"*": "a.pem"}, r"not '\*'"),
        ({"a.*.example": "a.pem"}, "is a host name"),
        ({"a..example": "a.pem"}, "is a host name"),
        ({"https://a.example": "a.pem"}, "is a host name"),
        ({"a.example:443": "a.pem"}, "is a host name"),
        ({7: "a.pem"}, "is a host name such as 'a.example.com', not 7"),
        ({"a.example": ("a.pem", "b.pem", "c.pem")}, "a file or .certificate, key. for each name"),
        (
            {"a.example": None},
            "the certificate of 'a.example' in hosts of Tls must be the path of a PEM",
        ),
        ({"a.example": ("a.pem", None)}, "the key of 'a.example' in hosts of Tls must be the path"),
        ({"a.example": "a.pem", "A.example.": "b.pem"}, "has a name twice"),
    ],
)
def test_mistakes_in_hosts(hosts: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Tls("a.pem", hosts=hosts)


def test_a_missing_file_of_a_host(tls: Tls, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"the TLS certificate file '.*no\.pem' does not exist"):
        App(tls=Tls(tls.certificate, tls.key, hosts={"a.example": tmp_path / "no.pem"}))


def test_hosts_cannot_be_changed(tls: Tls) -> None:
    with pytest.raises(TypeError):
        tls.hosts["c.example"] = "c.pem"  # type: ignore[index]
    assert hash(tls) == hash(Tls(tls.certificate, tls.key, hosts=tls.hosts))
