"""TLS contexts of a server and its clients."""

from __future__ import annotations

import ssl

import pytest
import trustme
from support.tls_contexts import context_for_client, context_for_server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    return context_for_server(authority, "localhost", "127.0.0.1")


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    return context_for_client(authority)
