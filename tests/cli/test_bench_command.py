"""`pywsapp bench`: what it measures, and what it says about itself."""

from __future__ import annotations

import json
import math
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from support.serving import GUARD

from pywsapp.cli import bench, load, main
from pywsapp.cli.latencies import Latencies
from pywsapp.cli.load import Load, Plan, Progress, Result, due_time

pytestmark = pytest.mark.once
Bench = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count replies that a busy machine delays; without missing ones nothing waits so long."""
    monkeypatch.setattr(load, "GRACE", GUARD)


@pytest.fixture
def measure(server: str, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Run `pywsapp bench --json` against a path of the server; return the status and the result."""

    def run(path: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        times = ["--duration", "0.3", "--warm-up", "0.1"]
        status = main(["bench", f"{server}{path}", "--json", *times, *arguments])
        return status, json.loads(capsys.readouterr().out)

    return run


def test_one_message_after_the_other(measure: Bench) -> None:
    status, found = measure("/", "--connections", "3")
    assert status == 0
    assert found["sent"] == found["answered"] > 3
    assert (found["missing"], found["others"], found["failures"], found["closed"]) == (0, 0, {}, {})
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert found["per_second"] == pytest.approx(found["answered"] / found["seconds"], rel=0.01)
    assert any("without --rate" in note for note in found["notes"])
    assert any("shares the" in note for note in found["notes"])


def test_a_rate(measure: Bench) -> None:
    status, found = measure("/", "--rate", "100", "--size", "1k", "--binary", "--compress")
    assert status == 0
    assert 0 < found["sent"] <= 31  # in 0.3 s; those of the warm-up do not count
    assert (found["answered"], found["size"]) == (found["sent"], 1024)
    assert not any("without --rate" in note for note in found["notes"])


def test_a_rate_shows_a_server_that_stalls(measure: Bench) -> None:
    """If the client waited for replies, only one message in a hundred would be late."""
    times = ["--connections", "1", "--duration", "1", "--warm-up", "0"]
    _, found = measure("/stalls", "--rate", "100", *times)
    assert found["latency_ms"]["p90"] > 150
    assert found["answered"] == found["sent"]


def test_a_message_that_is_sent_late_counts_from_the_time_at_which_it_was_due(server: str) -> None:
    pauses = [0.2]  # seconds

    def pause(progress: Progress) -> None:
        if pauses and progress.passed is not None:
            time.sleep(pauses.pop())

    found = anyio.run(Load(plan(url=server, rate=200.0, duration=0.6), pause).run)
    assert found.latencies.percentile(85) > 30_000_000  # a third of the messages were due in the pause


def test_mistakes_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, what in (
        (["ws://user@localhost:1"], "a WebSocket URL has no #fragment and no user"),
        (["ws://localhost:1", "--header", "a b: c"], "'a b' is not a valid name of a header field"),
        (["ws://localhost:1", "--message", "\udcff%s"], "argument --message: must be text in UTF-8"),
    ):
        with pytest.raises(SystemExit):
            main(["bench", *arguments])
        errors = capsys.readouterr().err
        assert what in errors
        assert errors.count("\n") == 1


def test_the_size_of_a_message_is_in_bytes(measure: Bench) -> None:
    assert measure("/", "--connections", "1", "--message", "é%s")[1]["size"] == 20


def test_a_broadcast(measure: Bench) -> None:
    status, found = measure("/room", "--broadcast", "--rate", "50", "--connections", "5")
    assert status == 0
    assert found["answered"] == 5 * found["sent"] > 0
    assert found["missing"] == 0


def test_a_mark_inside_of_other_text(measure: Bench) -> None:
    status, found = measure("/talks", "--message", '{"say": "%s"}', "--connections", "1")
    assert status == 0
    assert found["answered"] == found["sent"] > 0
    assert found["others"] >= found["answered"]


def test_a_server_that_answers_nothing(measure: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "GRACE", 0.1)
    status, found = measure("/silent", "--rate", "50")
    assert (status, found["answered"], found["missing"]) == (1, 0, found["sent"])
    assert any("no reply had the mark" in warning for warning in found["warnings"])


def test_connections_that_the_server_closes(measure: Bench) -> None:
    # It ends when no connection is open: the warm-up is only the limit of a server that is slow.
    status, found = measure("/talks?close=1", "--connections", "2", "--warm-up", str(GUARD))
    assert (status, found["closed"], found["generator"]["cores"]) == (1, {"1013": 2}, 0)
    assert found["warnings"] == [
        "nothing was measured, because the server closed all connections before the end of the warm-up"
    ]


@pytest.mark.parametrize(("code", "was_ours"), [(1000, True), (1005, True), (1006, True), (1013, False), (4401, False)])
def test_a_close_frame_of_the_server_that_crosses_ours_counts(code: int, was_ours: bool) -> None:
    test = Load(plan(), lambda progress: None)
    conn: Any = SimpleNamespace(close_code=code)
    client = load._Client(test, anyio.Event())
    client.on_open(conn)
    test.is_closing = True
    client.on_close(conn)
    assert client.was_ours == was_ours


def test_the_url_is_shown_without_its_query(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--json"]):
        times = ["--duration", "0.1", "--warm-up", "0", "--connections", "1"]
        main(["bench", f"{server}/?token=secret", *times, *arguments])
        output = capsys.readouterr().out
        assert f"{server}/?..." in output
        assert "secret" not in output


def test_stopping_does_not_wait_for_a_server_that_does_not_answer() -> None:
    shown: list[Progress] = []

    def stop(progress: Progress) -> None:
        shown.append(progress)
        started.stop()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        started = Load(plan(url=url, connections=1_000_000), stop)
        found = anyio.run(started.run)
    assert found.is_interrupted
    assert (found.seconds, found.failures) == (0, {})
    assert shown == [Progress(0, 0, None, 0)]


def test_the_text_of_the_progress() -> None:
    test = plan(connections=2000, warm_up=1.0, duration=3.0)
    assert bench._progress_text(test, Progress(64, 0, None, 0)) == "opening connections: 64 of 2,000"
    assert bench._progress_text(test, Progress(64, 2, None, 0)) == "opening connections: 64 of 2,000, 2 failed"
    assert bench._progress_text(test, Progress(9, 0, 0.5, 0)) == "[##..................] 0.5/4 s  warm-up"
    assert bench._progress_text(test, Progress(9, 0, 4.1, 1234)) == "[####################] 4.0/4 s  1,234 replies"


def test_the_progress_in_a_terminal_without_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    main_end, other = pytest.importorskip("pty").openpty()
    with os.fdopen(main_end, "rb", buffering=0) as terminal, os.fdopen(other, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        bench._progress_bar(plan(connections=2000))(Progress(64, 0, None, 0))
        assert b"opening connections: 64 of 2,000" in terminal.read(200)


def test_connections_that_are_refused(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"{server}/private", "--connections", "2"]) == 1
    output = capsys.readouterr().out
    assert "connections  0 opened" in output
    assert "    2 x the server answered 401 Unauthorized" in output


def test_the_report(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", server, "--rate", "100", "--duration", "0.3", "--warm-up", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{server}: 10 connections, 100 messages per second together, 64 bytes each, 0.3")
    assert lines[0].endswith(" s after 0 s of warm-up")
    assert lines[2].split() == ["LATENCY", "MS"]
    assert [line.split()[0] for line in lines[3:10]] == ["p50", "p75", "p90", "p95", "p99", "p99.9", "max"]
    assert [line.split()[0] for line in lines[11:15]] == ["throughput", "messages", "connections", "generator"]


def test_an_interruption_keeps_what_was_measured(server: str) -> None:
    started = Load(plan(url=server, duration=60.0), lambda progress: started.stop() if progress.answered else None)
    found = anyio.run(started.run)
    assert found.is_interrupted
    assert 0 < found.answered == found.sent
    assert found.seconds < 30
    assert any("interrupted" in note for note in bench._notes(plan(), found))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--size", "10"], "argument --size: must be 18 or more"),
        (["--message", "hello"], "argument --message: must have %s once"),
        (["--connections", "0"], "argument --connections: must be a whole number from 1 on, not '0'"),
        (["--rate", "inf"], "argument --rate: must be a number greater than 0, not 'inf'"),
    ],
)
def test_mistakes(arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "ws://localhost:1", *arguments])
    assert caught.value.code == 2
    assert what in capsys.readouterr().err


# -- what it says about itself -----------------------------------------------------------------------------------------


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "url": "ws://chat.example",
        "connections": 1,
        "rate": 100.0,
        "broadcast": False,
        "template": None,
        "size": 64,
        "is_binary": False,
        "duration": 10.0,
        "warm_up": 0.0,
    }
    return Plan(**{**settings, **changes})


def result(**changes: Any) -> Result:
    found = Result(sent=1000, answered=1000, seconds=10.0, processor=1.0)
    for _ in range(100):
        found.latencies.add(5_000_000)
        found.lags.add(100_000)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_good_numbers_have_no_warning() -> None:
    assert bench._warnings(plan(), result()) == []
    assert bench._notes(plan(), result()) == []


def test_a_load_generator_without_processor_time() -> None:
    assert "used 95% of one core, so it was the bottleneck" in bench._warnings(plan(), result(processor=9.5))[0]


def test_a_load_generator_whose_event_loop_is_late() -> None:
    late = Latencies()
    for _ in range(100):
        late.add(3_000_000)
    assert "was late by 3.0" in bench._warnings(plan(), result(lags=late))[0]


def test_a_rate_that_was_not_kept() -> None:
    assert bench._warnings(plan(rate=200.0), result()) == ["only 100 of 200 messages per second were sent"]
    assert bench._warnings(plan(rate=200.0), result(is_interrupted=True)) == []


def test_percentiles_are_at_most_one_percent_too_large() -> None:
    durations = [random.Random(number).randint(0, 10 ** (number % 10)) for number in range(5000)]
    counted = Latencies()
    for duration in durations:
        counted.add(duration)
    durations.sort()
    for percent in (1, 50, 90, 99, 99.9, 100):
        exact = durations[max(math.ceil(len(durations) * percent / 100), 1) - 1]
        assert exact <= counted.percentile(percent) <= exact * 1.01 + 1
    assert Latencies().percentile(99) == 0


@pytest.mark.parametrize(
    ("message", "due"),
    [
        (plan().message(255), 255),
        (plan(is_binary=True).message(1 << 62), 1 << 62),
        (plan(template='~{"a~b": "%s"}~').message(7), 7),
        ("~" * 100, None),
        ("~00000000000000g0~", None),
        ("", None),
        (b"\xff\x00~", None),
    ],
)
def test_marks(message: str | bytes, due: int | None) -> None:
    assert due_time(message) == due
