"""The Python client and the browser client on one topic."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from support.node_packages import node_program
from support.program import Program
from support.serving import GUARD

from pywsapp import Backoff, connect_topics

pytestmark = pytest.mark.once
TESTS = Path(__file__).parent.parent
COUNT = 20


def test_messages_presence_and_losses() -> None:
    with Program([str(TESTS / "support" / "topic_site.py"), "0"]) as server:
        url = f"ws://localhost:{server.port}/live"
        command = [node_program(), "--experimental-websocket", str(TESTS / "browser" / "beside.mjs")]
        with subprocess.Popen(command, env={"TEST_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as node:
            try:
                anyio.run(talk, url, backend="trio")  # other tests have the other event loops
                output = node.communicate(timeout=GUARD)[0]
            finally:
                node.kill()
        assert node.returncode == 0, output


async def talk(url: str) -> None:
    """Send numbers and bytes, get the answers of the browser client, and break all connections meanwhile."""
    async with (
        connect_topics(url, backoff=Backoff(base=0.02, cap=0.1)) as topics,
        topics.subscribe("room:both", presence=True, track="python") as subscription,
    ):
        with anyio.fail_after(GUARD):
            async for _ in subscription.presence_changes():
                if sorted(subscription.present.values()) == ["browser", "python"]:
                    break
        for number in range(1, COUNT + 1):
            await topics.publish("room:both", {"number": number})
            if number % 5 == 0:
                await anyio.to_thread.run_sync(drop, url)
        answers: list[int] = []
        while len(answers) < COUNT:
            data = (await subscription.receive(timeout=GUARD)).data
            answers += [data["answer"]] if "answer" in data else []
        assert answers == list(range(1, COUNT + 1))
        await topics.publish("room:both", b"\1\2\3")
        assert [(await subscription.receive(timeout=GUARD)).data for _ in range(2)] == [b"\1\2\3", b"\3\2\1"]
        await topics.publish("room:both", "end")


def drop(url: str) -> None:
    """Break all connections of the server."""
    request = urllib.request.Request(url.replace("ws:", "http:").replace("/live", "/command?drop=1006"), method="POST")
    with urllib.request.urlopen(request, timeout=GUARD) as answer:
        assert answer.status == 200
