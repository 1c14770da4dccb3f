"""wsload, compiled once for all of its tests."""

from __future__ import annotations

import ssl

import pytest
import trustme
from support.wsload import Wsload, compiled, compiler, has_header


@pytest.fixture(scope="session")
def wsload(tmp_path_factory: pytest.TempPathFactory) -> Wsload:
    cc = compiler()
    if not has_header(cc, "zlib.h"):
        pytest.skip("there is no zlib.h")
    tls = has_header(cc, "openssl/ssl.h")
    libraries = ["-lz", "-lssl", "-lcrypto"] if tls else ["-DNO_TLS", "-lz"]
    return Wsload(compiled(cc, tmp_path_factory.mktemp("bin") / "wsload", "-O2", *libraries), tls)


@pytest.fixture(scope="session")
def certificate() -> trustme.LeafCert:
    return trustme.CA().issue_cert("localhost")


@pytest.fixture
def context(wsload: Wsload, certificate: trustme.LeafCert) -> ssl.SSLContext:
    if not wsload.tls:
        pytest.skip("there is no openssl/ssl.h")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
