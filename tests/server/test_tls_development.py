"""The certificate for development: what it contains, where it is stored, and that clients can trust it."""

from __future__ import annotations

import logging
import os
import signal
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from support.program import Program
from support.serving import GUARD
from support.wire import running

from pywsapp import App, ConfigurationError, EchoServer, Tls, connect
from pywsapp._server import development_certificate as module
from pywsapp._server.certificate_dates import days_left, fingerprint
from pywsapp._server.tls_reload import as_server_tls

NO_CRYPTOGRAPHY = """
import sys
sys.modules["cryptography"] = None
from pywsapp import App, ConfigurationError, Tls
App()
try:
    Tls.self_signed()
except ConfigurationError as exc:
    print(exc)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pywsapp" / "development-certificate.pem"


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_clients_that_trust_the_file_can_connect(
    host: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("*", 0, "::1" if ":" in host else "127.0.0.1", tls=Tls.self_signed())
    app.route("/", EchoServer())
    trusting = ssl.create_default_context(cafile=cache)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    async with running(app):
        async with connect(f"wss://{host}:{app.port}/", tls=trusting) as conn:
            conn.send("hello")
            assert await conn.receive() == "hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connect(f"wss://{host}:{app.port}/"):
                pass
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "for development only; its SHA-256 fingerprint is " + fingerprint(cache.read_bytes()) in warning
    assert warning.endswith(str(cache))


def test_the_fingerprint_is_that_of_openssl(cache: Path) -> None:
    Tls.self_signed()
    shown = subprocess.run(
        ["openssl", "x509", "-in", cache, "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip().endswith("=" + fingerprint(cache.read_bytes()))


def test_there_is_one_certificate_until_it_ends(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = Tls.self_signed()
    before = cache.read_bytes()
    assert Tls.self_signed() == tls
    assert cache.read_bytes() == before
    assert module.MIN_DAYS < (days_left(before) or 0) <= module.VALID_DAYS
    with monkeypatch.context() as patched:
        patched.setattr(module, "VALID_DAYS", module.MIN_DAYS - 1)
        cache.write_bytes(module.create())
    ends_soon = cache.read_bytes()
    Tls.self_signed()
    assert cache.read_bytes() != ends_soon


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_only_the_user_can_read_the_key(cache: Path) -> None:
    Tls.self_signed()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
    before = cache.read_bytes()
    cache.chmod(0o644)
    Tls.self_signed()
    assert cache.read_bytes() != before
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_broken_file_is_replaced(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("broken")
    cache.chmod(0o600)
    as_server_tls(Tls.self_signed())


def test_a_directory_that_cannot_be_used(cache: Path) -> None:
    cache.parent.write_text("a file")
    with pytest.raises(ConfigurationError, match=r"cannot be stored in '.*': .*; set XDG_CACHE_HOME"):
        Tls.self_signed()


def test_the_name_of_the_option_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"a certificate for development is Tls\.self_signed\(\)"):
        App(tls="self-signed")
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path("self-signed")
    App(tls="self-signed")


def test_a_certificate_of_files_is_not_for_development() -> None:
    assert not Tls("a.pem").is_self_signed


def test_without_the_package() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", NO_CRYPTOGRAPHY],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert shown.stdout == "cryptography is not installed: pip install 'pywsapp[dev-tls]'\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers")
def test_workers_have_the_same_certificate(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text('from pywsapp import App\napp = App("*")\n')
    arguments = ["-m", "pywsapp", "run", "chat:app", "--port", "0", "--tls-self-signed", "--workers", "2"]
    with Program(arguments, cwd=tmp_path) as program:
        port = program.port
        program.until("its SHA-256 fingerprint is")
        shown = {ssl.get_server_certificate(("127.0.0.1", port)) for _ in range(20)}
        assert program.output.count("fingerprint") == 1
    assert len(shown) == 1
    assert shown.pop().strip() in cache.read_text().replace("\r\n", "\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_server_for_development_ends_with_its_terminal(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text('from pywsapp import App\napp = App("*")\n')
    arguments = ["-m", "pywsapp", "run", "chat:app", "--port", "0", "--tls-self-signed"]
    with Program(arguments, cwd=tmp_path) as program:
        program.until("its SHA-256 fingerprint is")
        program.send(signal.SIGHUP)
        assert program.end(GUARD) == -signal.SIGHUP
