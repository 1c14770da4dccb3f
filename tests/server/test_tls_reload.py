"""Certificates that are replaced while the server runs."""

from __future__ import annotations

import datetime
import logging
import os
import shutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSAttribute
from cryptography.hazmat.primitives import serialization
from support.program import Program, every_backend
from support.serving import GUARD
from support.wire import running

from pywsapp import App, ConfigurationError, EchoServer, Tls, connect
from pywsapp._server import tls_reload
from pywsapp._server.certificate_dates import days_left, first_certificate
from pywsapp._server.tls_reload import CertificateWatch, ReloadingTls, as_server_tls

AUTHORITY = trustme.CA()
NAME = "localhost"


class Files:
    """A certificate and its key in a directory, which can be replaced."""

    def __init__(self, directory: Path) -> None:
        self.certificate, self.key = directory / "cert.pem", directory / "key.pem"
        self.replace()

    @property
    def pair(self) -> tuple[Path, Path]:
        return self.certificate, self.key

    def replace(self, *, certificate: bool = True, key: bool = True, days: int = 30) -> bytes:
        """Issue a certificate, replace the files, and return its DER."""
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days, hours=1)
        issued = AUTHORITY.issue_cert(NAME, not_after=end)
        self.last = issued
        if certificate:
            write(self.certificate, issued.cert_chain_pems[0].bytes())
        if key:
            write(self.key, issued.private_key_pem.bytes())
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step, as certbot does; the new file has another inode."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    os.replace(part, path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_reload, "CHECK_SECONDS", 0.05)


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


@asynccontextmanager
async def serving(tls: object) -> AsyncIterator[App]:
    app = App("*", 0, tls=tls)  # type: ignore[arg-type]
    app.route("/", EchoServer())
    async with running(app):
        yield app


async def certificate_of(app: App) -> bytes:
    """Return the certificate that a new client sees; it must belong to the key, or the handshake fails."""
    async with await anyio.connect_tcp(
        "127.0.0.1", app.port, ssl_context=trusting(), tls_hostname=NAME, tls_standard_compatible=False
    ) as stream:
        return bytes(stream.extra(TLSAttribute.peer_certificate_binary) or b"")


async def until_seen(app: App, expected: bytes) -> None:
    """Connect again and again until clients see a certificate."""
    with anyio.fail_after(GUARD):
        while await certificate_of(app) != expected:
            pass


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


# -- a server


@pytest.mark.anyio
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", ["Tls", "pair", "one file"])
async def test_new_connections_see_the_new_certificate_and_old_ones_go_on(
    kind: str, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    both = tmp_path / "both.pem"
    both.write_bytes(files.last.private_key_and_cert_chain_pem.bytes())
    tls = {"Tls": Tls(*files.pair), "pair": files.pair, "one file": str(both)}[kind]
    async with serving(tls) as app, connect(f"wss://{NAME}:{app.port}/", tls=trusting()) as old:
        for number in range(2):
            old.send(f"before {number}")
            assert await old.receive() == f"before {number}"
            expected = files.replace()
            write(both, files.last.private_key_and_cert_chain_pem.bytes())
            await until_seen(app, expected)
            old.send("x" * 100_000)
            assert await old.receive() == "x" * 100_000
            async with connect(f"wss://{NAME}:{app.port}/", tls=trusting()) as new:
                new.send("hello")
                assert await new.receive() == "hello"
    name = both if kind == "one file" else files.certificate
    expected_line = f"reloaded the TLS certificate {str(name)!r}; it is valid for 30 days"
    assert [line for line in messages(caplog, logging.INFO) if "reloaded" in line] == [expected_line] * 2
    assert messages(caplog, logging.WARNING) == []


@pytest.mark.anyio
@pytest.mark.usefixtures("soon")
async def test_a_broken_file_does_not_end_serving(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(GUARD):
        async with serving(files.pair) as app:
            before = await certificate_of(app)
            write(files.certificate, files.certificate.read_bytes()[:300])
            while not messages(caplog, logging.WARNING):
                assert await certificate_of(app) == before
            await until_seen(app, files.replace())
    [warning] = messages(caplog, logging.WARNING)
    assert "the old one stays in use; it is valid for 30 days" in warning


@pytest.mark.anyio
async def test_a_context_of_the_program_is_left_alone(files: Files) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    assert as_server_tls(context) is context
    assert not CertificateWatch([context, None])
    assert CertificateWatch([context, as_server_tls(files.pair)])


# -- one reload at a time


def test_nothing_is_loaded_while_the_files_stay_the_same(files: Files) -> None:
    tls = ReloadingTls(Tls(*files.pair))
    context = tls.context
    tls.reload()
    assert tls.context is context
    tls.reload(at_once=True)
    assert tls.context is not context


@pytest.mark.parametrize("first", ["certificate", "key"])
def test_certificate_and_key_are_replaced_one_after_the_other(
    first: str, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    tls = ReloadingTls(Tls(*files.pair))
    old = tls.context
    kept = {path: path.read_bytes() for path in files.pair}
    files.replace()
    second = files.key if first == "certificate" else files.certificate
    new = second.read_bytes()
    write(second, kept[second])
    tls.reload()
    assert tls.context is old
    assert messages(caplog, logging.WARNING) == []
    write(second, new)
    tls.reload()
    assert tls.context is not old
    assert messages(caplog, logging.WARNING) == []


def test_a_failure_is_a_warning_once_for_each_change(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    tls = ReloadingTls(Tls(*files.pair))
    old = tls.context
    for number in (1, 2):
        write(files.key, b"nothing" * number)
        for _ in range(4):
            tls.reload()
        assert tls.context is old
        assert len(messages(caplog, logging.WARNING)) == number
    assert f"the TLS key file {str(files.key)!r} has no PEM private key" in caplog.text
    files.key.unlink()
    tls.reload()
    tls.reload()
    assert messages(caplog, logging.WARNING)[2:] != []
    assert "does not exist" in messages(caplog, logging.WARNING)[2]
    files.replace()
    tls.reload()
    assert tls.context is not old


def test_a_failure_on_request_is_a_warning_at_once(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    tls = ReloadingTls(Tls(*files.pair))
    write(files.key, b"nothing")
    tls.reload(at_once=True)
    assert len(messages(caplog, logging.WARNING)) == 1


def test_a_failure_with_a_reason_outside_of_the_files_is_tried_again(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[str | Exception] = ["open sesame", RuntimeError("the vault is sealed"), "open sesame"]

    def password() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def encrypt() -> None:
        key = serialization.load_pem_private_key(files.last.private_key_pem.bytes(), None)
        encryption = serialization.BestAvailableEncryption(b"open sesame")
        pkcs8 = serialization.PrivateFormat.PKCS8
        write(files.key, key.private_bytes(serialization.Encoding.PEM, pkcs8, encryption))

    encrypt()
    tls = ReloadingTls(Tls(*files.pair, password))
    old = tls.context
    files.replace()
    encrypt()
    tls.reload()
    assert tls.context is old
    tls.reload()
    assert tls.context is not old
    assert "open sesame" not in repr(tls)


def test_a_link_that_points_to_other_files(files: Files, tmp_path: Path) -> None:
    """Certbot and Kubernetes replace links, not files."""
    link = tmp_path / "live"
    (tmp_path / "1").mkdir()
    shutil.move(files.certificate, tmp_path / "1")
    shutil.move(files.key, tmp_path / "1")
    link.symlink_to(tmp_path / "1")
    tls = ReloadingTls(Tls(link / "cert.pem", link / "key.pem"))
    old = tls.context
    (tmp_path / "2").mkdir()
    Files(tmp_path / "2")
    tls.reload()
    assert tls.context is old
    (tmp_path / "new").symlink_to(tmp_path / "2")
    os.replace(tmp_path / "new", link)
    tls.reload()
    assert tls.context is not old


@pytest.mark.parametrize("days", [400, 30, 0, -3])
def test_days_left(days: int, files: Files) -> None:
    files.replace(days=days)
    assert days_left(files.certificate.read_bytes()) == pytest.approx(days + 1 / 24, abs=0.001)


def test_days_left_of_something_else(files: Files) -> None:
    assert days_left(b"") is None
    assert days_left(files.key.read_bytes()) is None
    der = first_certificate(files.certificate.read_bytes()) or b""
    for size in range(0, 200, 7):
        days_left(ssl.DER_cert_to_PEM_cert(der[:size]).encode())
    assert days_left(b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----") is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("",), "certificate of Tls must be the path of a PEM file, not ''"),
        ((None,), "certificate of Tls must be the path of a PEM file, not None"),
        (("a.pem", 7), "key of Tls must be the path of a PEM file, not 7"),
        (("a.pem", None, 7), "the password of Tls must be text or a function, not int"),
    ],
)
def test_mistakes(arguments: tuple[object, ...], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Tls(*arguments)  # type: ignore[arg-type]


# -- SIGHUP

PROGRAM = """
from pywsapp import App, EchoServer
from pywsapp._server import tls_reload
tls_reload.CHECK_SECONDS = {seconds}
app = App("*", 0, tls=({certificate!r}, {key!r}))
app.route("/", EchoServer())
app.run({run}{more})
"""


def shown_by(port: int) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
@every_backend
def test_sighup_reloads(run: str, files: Files) -> None:
    source = PROGRAM.format(seconds=1000, certificate=str(files.certificate), key=str(files.key), run=run, more="")
    with Program(source) as program:
        port = program.port
        for _ in range(2):
            expected = files.replace()
            assert shown_by(port) != expected
            seen = len(program.output)
            program.send(signal.SIGHUP)
            program.until("reloaded", seen)
            assert shown_by(port) == expected
        program.send(signal.SIGTERM)
        assert program.end(GUARD) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers")
def test_every_worker_reloads(files: Files) -> None:
    source = PROGRAM.format(
        seconds=0.1, certificate=str(files.certificate), key=str(files.key), run="", more="workers=2"
    )
    path = files.certificate.parent / "program.py"
    path.write_text(source)
    with Program([str(path)]) as program:
        port = program.port
        expected = files.replace()
        for worker in (1, 2):  # one of them can reload twice, if it looks when only one file is new
            program.until(rf"worker {worker} INFO reloaded")
        assert {shown_by(port) for _ in range(20)} == {expected}
        program.send(signal.SIGTERM)
        assert program.end(GUARD) == 0
