"""TLS contexts of a server and its clients, with a certificate authority of the tests."""

from __future__ import annotations

import ssl

import trustme


def context_for_server(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Return the context of a server with a certificate for host names and addresses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def context_for_client(authority: trustme.CA) -> ssl.SSLContext:
    """Return the context of a client that trusts an authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
