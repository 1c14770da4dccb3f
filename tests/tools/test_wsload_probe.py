"""The probe of the load generator: one more connection, whose latency is reported separately."""

from __future__ import annotations

import ssl

import pytest
from support.wsload import Wsload, is_in_order

PROBED: list[list[str]] = [
    ["--path", "/echo", "--binary", "--size", "500"],
    ["--path", "/echo", "--rate", "300"],
    ["--path", "/chat", "--mode", "broadcast", "--conns", "5"],
    ["--path", "/echo", "--mode", "connect", "--concurrency", "3"],
    ["--path", "/echo", "--mode", "idle"],
    ["--path", "/echo", "--mode", "ramp", "--conns", "20"],
    ["--path", "/final-block", "--deflate", "--size", "900"],
]


@pytest.mark.parametrize("options", PROBED, ids=" ".join)
def test_probe(wsload: Wsload, options: list[str]) -> None:
    status, result, server = wsload.run(*options[1:], "--probe-ms", "4", "--probe-path", "/probe")
    assert (status, result["errors"], result["unclean_closes"]) == (0, 0, 0)
    assert 0 < result["probes"] <= server.received["/probe"]
    assert is_in_order(result["probe_us"])
    assert result["probe_ms"] == 4


def test_probe_over_tls(wsload: Wsload, context: ssl.SSLContext) -> None:
    result = wsload.accepts("/echo", "--tls", "--size", "70000", "--probe-ms", "4", context=context)
    assert is_in_order(result["probe_us"])


def test_probe_is_in_no_other_figure(wsload: Wsload) -> None:
    alone, probed = (
        wsload.accepts("/echo", "--mode", "idle", "--touch", *probe)
        for probe in ([], ["--probe-ms", "2", "--probe-path", "/drip"])
    )
    assert [alone[key] for key in ("rx_bytes", "tx_bytes", "sends")] == [
        probed[key] for key in ("rx_bytes", "tx_bytes", "sends")
    ]
    assert "latency_us" in alone
    assert "latency_us" not in wsload.accepts("/echo", "--mode", "idle", "--probe-ms", "2")


def test_probe_sees_a_stall(wsload: Wsload) -> None:
    """The server answers five probes at once, after the last of them, so the first one waits for four intervals."""
    result = wsload.accepts("/echo", "--mode", "idle", "--probe-ms", "10", "--probe-path", "/hold", "--seconds", "0.5")
    assert result["probes"] >= 5
    assert result["probe_us"]["max"] >= 40_000
    assert result["probe_us"]["p50"] <= result["probe_us"]["max"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/corrupt", "probe: payload of message 3 differs"),
        ("/masked", "probe: masked frame"),
        ("/twice", "probe: "),
        ("/refused", "probe: handshake refused"),
        ("/unoffered", "probe: extension not offered"),
        ("/silent-after-three", "probes did not come back"),
    ],
)
def test_refuses_wrong_answers_to_the_probe(wsload: Wsload, path: str, error: str) -> None:
    options = ["--mode", "idle", "--probe-ms", "4", "--probe-path", path, "--timeout", "1"]
    assert error in wsload.refuses("/echo", *options)
