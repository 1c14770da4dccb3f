"""The command line of the load generator, and its builds without zlib and OpenSSL."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.wsload import Wsload, compiled, compiler


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "10.0.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "192.168.1.1",
        "8.8.8.8",
        "::1",
        "example.com",
        "",
        "127.1",
    ],
)
def test_only_loopback(wsload: Wsload, host: str) -> None:
    assert "only addresses in 127.0.0.0/8 are accepted" in wsload.declines("--port", "9", "--host", host)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "usage: wsload"),
        (["--port", "0"], "--port: expected a number from 1 to 65535"),
        (["--port", "9", "--conns", "20001"], "--conns: expected a number from 1 to 20000"),
        (["--port", "9", "--probe-ms", "0"], "--probe-ms: expected a number"),
        (["--port", "9", "--probe-ms", "nan"], "--probe-ms: expected a number"),
        (["--port", "9", "--mode", "flood"], "unknown mode flood"),
        (["--port", "9", "--ack", "some"], "--ack: expected one or all"),
        (["--port", "9", "--hello", "40"], "--hello: at most 20 bytes, with --greetings"),
        (["--port", "9", "--prefix", "0" * 17], "--prefix and --suffix: at most --size bytes"),
        (["--port", "9", "--binary", "--suffix", "0"], "--prefix and --suffix: at most --size bytes, of --text"),
        (["--port", "9", "--greetings", "1", "--deflate"], "--greetings: not with --deflate"),
        (["--port", "9", "--watch", "1"] + ["--watch", "1"] * 64, "--watch: at most 64"),
        (["--port", "9", "--tls-resume"], "usage: wsload"),
        (["--port", "9", "more"], "usage: wsload"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else None,
)
def test_wrong_options(wsload: Wsload, options: list[str], error: str) -> None:
    assert error in wsload.declines(*options)


def test_help(wsload: Wsload) -> None:
    done = subprocess.run([wsload.program, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--mode", "--rate", "--window", "--tls", "--probe-ms", "--probe-path"):
        assert option in done.stdout


def test_without_zlib_and_openssl(tmp_path: Path) -> None:
    bare = Wsload(compiled(compiler(), tmp_path / "bare", "-DNO_ZLIB", "-DNO_TLS"), tls=False)
    assert "built without TLS" in bare.declines("--port", "9", "--tls")
    assert "built without zlib" in bare.declines("--port", "9", "--deflate")
    bare.accepts("/ping", "--size", "300", "--probe-ms", "5")
