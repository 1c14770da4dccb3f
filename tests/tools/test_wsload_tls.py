"""The load generator over TLS."""

from __future__ import annotations

import ssl

import pytest
from support.wsload import Case, Wsload, case_name, is_in_order

OVER_TLS: list[Case] = [
    ("/echo", []),
    ("/echo", ["--size", "300000", "--pipeline", "3"]),
    ("/ping", ["--size", "300000", "--pipeline", "30"]),  # a Pong waits while a record is sent in parts
    ("/drip", ["--size", "300", "--pipeline", "7"]),
    ("/fragments", ["--size", "70000", "--binary"]),
    ("/echo", ["--rate", "500"]),
    ("/echo", ["--mode", "idle", "--touch", "--conns", "10"]),
    ("/echo", ["--mode", "ramp", "--conns", "10"]),
    ("/chat", ["--mode", "broadcast", "--conns", "5"]),
    ("/final-block", ["--deflate", "--verify", "1", "--size", "900"]),
]


@pytest.mark.parametrize("case", OVER_TLS, ids=case_name)
def test_accepts_over_tls(wsload: Wsload, context: ssl.SSLContext, case: Case) -> None:
    assert wsload.accepts(case[0], "--tls", *case[1], context=context)["tls"].startswith("TLSv1.3 ")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/corrupt", "payload of message 3 differs"),
        ("/close", "closed by the server, code 1011"),
        ("/refused", "403 Forbidden"),
        ("/abort", "read: "),
    ],
)
def test_refuses_over_tls(wsload: Wsload, context: ssl.SSLContext, path: str, error: str) -> None:
    assert error in wsload.refuses(path, "--tls", context=context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_every_tls_handshake_is_a_full_one(wsload: Wsload, context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    names = set()

    def note_name(channel: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        names.add(name)

    context.maximum_version = version
    # typeshed allows only numbers as results, but None continues the handshake
    context.sni_callback = note_name  # type: ignore[assignment,unused-ignore]
    options = ["--tls", "--mode", "connect", "--concurrency", "2", "--seconds", "1"]
    status, result, server = wsload.run("/echo", *options, context=context)
    assert (status, result["errors"]) == (0, 0)
    assert result["handshakes"] > 2
    assert is_in_order(result["handshake_us"])
    assert result["tls"].startswith("TLSv1.2 " if version == ssl.TLSVersion.TLSv1_2 else "TLSv1.3 ")
    assert names == {"localhost"}
    assert server.resumed == 0


def test_tls_to_a_server_without_tls(wsload: Wsload, context: ssl.SSLContext) -> None:
    assert "only 0 of 2 connections opened" in wsload.refuses("/echo", "--tls", "--timeout", "1")


def test_no_tls_to_a_server_with_tls(wsload: Wsload, context: ssl.SSLContext) -> None:
    assert "read: " in wsload.refuses("/echo", context=context)
