"""The load generator checks handshakes, frames and payloads, and reports correct figures."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess

import pytest
from support.wsload import Case, Wsload, case_name, is_in_order

SIZES = ["0", "1", "125", "126", "65535", "65536", "300000"]
EVENTS = ["--greetings", "2", "--hello", "40", "--prefix", '42["m","', "--suffix", '"]']
GOOD: list[Case] = [
    *[("/echo", ["--size", size]) for size in SIZES],
    *[("/echo", ["--size", size, "--binary", "--pipeline", "5"]) for size in SIZES],
    *[(path, ["--size", size]) for path in ("/drip", "/fragments", "/ping") for size in ("9", "400", "70000")],
    ("/drip", ["--size", "300", "--pipeline", "7"]),
    ("/ping", ["--pipeline", "16"]),
    ("/ping", ["--size", "300000", "--pipeline", "30"]),
    ("/echo", ["--rate", "500"]),
    ("/echo", ["--mode", "connect", "--concurrency", "3"]),
    ("/echo", ["--mode", "idle", "--touch", "--conns", "30"]),
    ("/echo", ["--mode", "ramp", "--touch", "--conns", "30"]),
    *[("/echo", ["--utf8", "--size", str(size)]) for size in range(60, 67)],
    ("/final-block", ["--deflate", "--verify", "1", "--size", "900"]),
    ("/protocol", ["--protocol", "talk, chat"]),
    ("/chat", ["--mode", "broadcast"]),
    ("/chat", ["--mode", "broadcast", "--ack", "all", "--conns", "20", "--window", "9"]),
    ("/echo", ["--host", "localhost"]),
    *[("/events", [*EVENTS, "--size", size]) for size in ("10", "74", "3000")],
    ("/events", [*EVENTS, "--mode", "connect", "--concurrency", "3", "--size", "10"]),
]


@pytest.mark.parametrize("case", GOOD, ids=case_name)
def test_accepts(wsload: Wsload, case: Case) -> None:
    wsload.accepts(case[0], *case[1])


BAD: list[tuple[str, list[str], str]] = [
    ("/corrupt", [], "payload of message 3 differs"),
    ("/short", [], "reply of 15 bytes"),
    ("/long", [], "reply longer than 16 bytes"),
    ("/opcode", [], "opcode 2, expected 1"),
    ("/masked", [], "masked frame"),
    ("/rsv1", [], "RSV1 without permessage-deflate"),
    ("/rsv3", [], "reserved bit"),
    ("/twice", [], "message"),
    ("/close", [], "closed by the server, code 1011"),
    ("/overlong", [], "not in its shortest form"),
    ("/long-ping", [], "bad control frame"),
    ("/cut-ping", [], "bad control frame"),
    ("/stray", [], "stray continuation"),
    ("/interleaved", [], "bad opcode"),
    ("/huge", ["--verify", "1000"], "reply longer than 16 bytes"),
    ("/silent", ["--timeout", "1"], "2 messages did not come back"),
    ("/refused", [], "403 Forbidden"),
    ("/bad-accept", [], "wrong Sec-WebSocket-Accept"),
    ("/unoffered", [], "extension not offered"),
    ("/protocol", [], "protocol not offered"),
    ("/abort", [], "read: "),
    ("/echo", ["--mode", "broadcast"], "the publisher received its own message"),
    ("/skipping", ["--mode", "broadcast"], "payload of message 3 differs"),
    ("/events", ["--greetings", "2", "--timeout", "1"], "only 0 of 2 connections opened"),
    ("/echo", ["--greetings", "1", "--timeout", "1"], "only 0 of 2 connections opened"),
]


@pytest.mark.parametrize(
    ("path", "options", "error"), BAD, ids=[case_name((path, options)) for path, options, _ in BAD]
)
def test_refuses(wsload: Wsload, path: str, options: list[str], error: str) -> None:
    assert error in wsload.refuses(path, *options)


def test_a_port_without_a_server(wsload: Wsload) -> None:
    """A bound port that does not listen refuses connections, and no other program can use it."""
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        command = [str(wsload.program), "--port", str(bound.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, timeout=30)
    assert done.returncode == 1
    assert "refused" in json.loads(done.stdout)["first_error"]


# -- figures -----------------------------------------------------------------------------------------------------------


def test_echo_figures(wsload: Wsload) -> None:
    status, result, server = wsload.run("/echo", "--pipeline", "3")
    assert status == 0
    assert 0 < result["messages"] <= server.received["/echo"]
    assert is_in_order(result["latency_us"])
    assert is_in_order(result["handshake_us"])
    assert {"rate", "mb_s", "open_rate", "cpu_pct", "rx_bytes", "tx_bytes"} <= set(result)
    assert not {"probe_us", "tls", "deflate", "fanout_us"} & set(result)


def test_connections_begin_with_messages_of_their_own(wsload: Wsload) -> None:
    _, _, server = wsload.run("/echo", "--conns", "7", "--size", "100", "--verify", "1")
    assert len(set(server.first)) == 7


def test_fan_out_figures(wsload: Wsload) -> None:
    result = wsload.accepts("/chat", "--mode", "broadcast", "--rate", "100", "--conns", "5")
    assert is_in_order(result["fanout_us"])
    assert is_in_order(result["latency_us"])
    assert result["fanout_us"]["p50"] >= result["latency_us"]["p50"]  # it includes the last delivery
    assert result["fanout_us"]["max"] <= result["latency_us"]["max"]


def test_a_schedule_is_kept(wsload: Wsload) -> None:
    """The number of messages depends on the time only, not on the server."""
    _, result, server = wsload.run("/echo", "--rate", "1000", "--warmup", "0", "--seconds", "1")
    most = 1000 * result["seconds"] + 10
    assert most - 500 <= server.received["/echo"] <= most  # the last ones are missing if wsload did not run then
    assert result["offered_rate"] == 1000
