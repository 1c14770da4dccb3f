"""Short attacks: the other clients are served, and the server stays within its bounds and comes back to its level."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the attacks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from attack.clients import Outcome, chat
from attack.link import Target, close_code
from attack.measuring import perform
from attack.processes import ServerKind
from attack.report import markdown, reactions
from attack.results import SETTLE_SECONDS, Result, Usage, faults, percentile
from attack.table import ATTACKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MIB = 1 << 20
#: Attacks that run together, each with a fifth of its attackers, and the event loop of the server.
TOGETHER = {
    "uvloop": "tiny-messages empty-messages compressed-fragments one-byte-writes pings handshakes reset-at-once",
    "asyncio": "bombs large-bombs bombs-in-fragments read-nothing-tls unfinished-messages hanging-handlers drip-heads",
    "trio": "garbage random-frames wrong-text random-bytes many-headers bodies pipelined-garbage proxy-headers",
}


def run_together(loop: str) -> list[str]:
    attacks = [ATTACKS[name] for name in TOGETHER[loop].split()]
    return faults(perform(attacks, ServerKind(loop=loop), 2, 0.2), latencies=False)


@pytest.mark.once
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_clients_are_served_during_attacks(loop: str) -> None:
    assert run_together(loop) == []


def test_clients_are_served_during_attacks_on_the_parsers() -> None:
    assert run_together("trio") == []


def outcome(during: list[float], handshakes: list[float], *failures: str) -> Outcome:
    latencies = {"before": [0.01], "during": during, "after": [0.01]}
    return Outcome(latencies=latencies, handshakes=handshakes, failures=list(failures))


def result(outcome: Outcome) -> Result:
    level = Usage(memory=30 * MIB, files=100, tasks=5)
    return Result([ATTACKS["pings"]], outcome, {"pings": {"101": 3, "close 1008": 2}}, level, level, settled=1)


def test_what_counts_as_a_fault() -> None:
    good = result(outcome([0.01] * 199 + [0.2], [0.01]))
    assert faults(good, latencies=True) == []
    slow = result(outcome([0.01] * 90 + [0.2] * 10, [0.01]))
    assert faults(slow, latencies=True) == ["1 % of the echoes took longer than 100 ms"]
    assert faults(slow, latencies=False) == []
    assert faults(result(outcome([0.01], [])), latencies=True) == ["no client was served"]
    assert faults(result(outcome([0.01], [0.01], "an echo failed")), latencies=True) == ["an echo failed"]
    assert faults(replace(good, ended="the server ended with -9"), latencies=True) == ["the server ended with -9"]
    good.outcome.refused = 2
    assert faults(good, latencies=True) == ["2 new clients were refused"]
    limited = replace(good, attacks=[ATTACKS["handshakes-limited"]], tally={"handshakes-limited": {"101": 1}})
    assert faults(limited, latencies=True) == []


def test_what_counts_as_a_fault_of_the_server() -> None:
    good = result(outcome([0.01], [0.01]))
    assert faults(replace(good, peak=230 * MIB), latencies=True) == []
    assert faults(replace(good, peak=231 * MIB), latencies=True) == ["the server took 201 MiB, more than 200 MiB"]
    assert faults(replace(good, after=Usage(files=111, tasks=5), settled=None), latencies=True) == [
        f"{SETTLE_SECONDS} s after the attack the server had 111 files and 5 tasks, before it 100 and 5"
    ]
    assert faults(replace(good, tally={"pings": {"101": 1, "reset": 1, "HTTP 500": 7}}), latencies=True) == [
        "pings: HTTP 500 7 times"
    ]
    assert faults(replace(good, tally={}), latencies=True) == ["pings: no connection was accepted"]
    assert faults(replace(good, tally={}), latencies=True, outcomes=False) == []
    [traceback] = faults(replace(good, log="pywsapp: hm\nTraceback (most recent call last):\n"), latencies=True)
    assert traceback.startswith("the server logged Traceback")


def test_the_level_of_a_server() -> None:
    level = Usage(files=100, tasks=5)
    assert Usage(files=110, tasks=15).is_at_level_of(level)
    assert not Usage(files=111, tasks=5).is_at_level_of(level)
    assert not Usage(files=100, tasks=16).is_at_level_of(level)
    assert not Usage(files=100).is_at_level_of(level)


def test_percentiles() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 1) == 2.0
    assert percentile([], 0.99) == float("inf")


def test_close_codes_at_the_end_of_a_stream() -> None:
    assert close_code(b"\x81\x05hello\x88\x02\x03\xe8") == 1000
    assert close_code(b"\x88\x0d\x03\xf1not a chance") is None
    assert close_code(b"\x88\x0e\x03\xf1not a chance") == 1009
    assert close_code(b"\x81\x01x\x88\0") == 1005
    assert close_code(b"\x88\x02\x00\x01") is None
    assert close_code(b"") is None


HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
ANSWERS = {
    "101, close 1008": HEAD + b"\x88\x02\x03\xf0",
    "101, end": HEAD + b"\x81\x01x",
    "HTTP 431": b"HTTP/1.1 431 Too Large\r\n\r\nhm",
    "end": b"",
}


@asynccontextmanager
async def answering(*steps: bytes, asked: asyncio.Event | None = None) -> AsyncIterator[int]:
    """Run a server for one client, which answers a request, and then each frame of a client, with the next bytes.

    Args:
        steps: the answers.
        asked: set when the first frame has come.
    """
    served, asked = asyncio.Event(), asked or asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(EOFError, OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(steps[0])
            for step in steps[1:]:
                await reader.read(100)
                asked.set()
                writer.write(step)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        served.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await served.wait()


@pytest.mark.once
@pytest.mark.parametrize("wanted", ANSWERS)
def test_what_an_attacker_counts(wanted: str) -> None:
    async def run() -> Counter[str]:
        async with answering(ANSWERS[wanted]) as port:
            target = Target({"plain": port})
            async with target.connect() as link:
                await link.write(b"GET / HTTP/1.1\r\n\r\n")
                await link.end()
        return target.tally

    assert asyncio.run(run()) == Counter(wanted.split(", "))


@pytest.mark.once
@pytest.mark.parametrize(
    ("answer", "lost"),
    [(b"\x81\x030:1", 0), (b"\x81\x030:2", 1), (b"\x81\x030:1\x81\x030:1", 1)],
    ids=["right", "another", "twice"],
)
def test_a_client_notices_a_wrong_echo(answer: bytes, lost: int) -> None:
    async def run() -> Outcome:
        found = Outcome()

        async with answering(HEAD, answer, b"\x88\x02\x03\xe8", asked=found.stopping) as port:
            begin = asyncio.Event()
            begin.set()
            await chat(port, "0", 0.01, found, asyncio.Semaphore(0), begin)
        return found

    found = asyncio.run(run())
    assert found.lost == len(found.failures) == lost
    assert all("instead of" in failure for failure in found.failures)


def test_the_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- attacks: begin -->\n\nold\n\n<!-- attacks: end -->\n\nMore.\n")
    good = replace(result(outcome([0.004, 0.25], [0.01])), peak=50 * MIB, log="a line\n")
    markdown(page, {"pywsapp": [good], "websockets": [good]}, 5)
    text = page.read_text()
    assert text.startswith("# Title\n\n<!-- attacks: begin -->\n\npywsapp, 5 seconds")
    assert text.endswith("<!-- attacks: end -->\n\nMore.\n")
    assert "old" not in text
    assert "| 250 / 250 |" in text
    assert "| pings | 250 / 250, 50 MiB | 250 / 250, 50 MiB |" in text
    assert reactions(good) == "101: 3, close 1008: 2, log lines: 1"
