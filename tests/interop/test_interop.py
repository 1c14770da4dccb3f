"""Clients of other projects against our server, on every event loop, with and without compression."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websocket
from support.program import BACKENDS, Program
from support.serving import GUARD
from websockets.sync.client import connect

#: The directory of npm packages, outside of the project directory.
NODE_MODULES = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pywsapp-node"
NODE_PACKAGE = "ws@8"

SERVER = """
from pywsapp import App, Deflate, EchoServer, Options
app = App(port=0)
app.route("/plain", EchoServer(), subprotocols=["echo.example"])
app.route("/deflate", EchoServer(), options=Options(deflate=Deflate()))
app.route("/takeover", EchoServer(), options=Options(deflate=Deflate(
    threshold=0, server_no_context_takeover=False, client_no_context_takeover=False,
    server_max_window_bits=15, client_max_window_bits=15)))
app.run({run})
"""

TEXT = "grüße 👋 " * 1000
BINARY = bytes(range(256)) * 100
MEBIBYTE = "x" * (1024 * 1024)
MESSAGES: list[str | bytes] = ["", TEXT, BINARY, MEBIBYTE, TEXT, MEBIBYTE.encode(), "the end"]

paths = pytest.mark.parametrize("path", ["/plain", "/deflate", "/takeover"])


@pytest.fixture(scope="module", params=list(BACKENDS.values()), ids=list(BACKENDS))
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with Program(SERVER.format(run=request.param)) as program:
        yield f"ws://localhost:{program.port}"
        assert "Traceback" not in program.output


@paths
def test_websockets_exchange(url: str, path: str) -> None:
    with connect(url + path, max_size=None, open_timeout=GUARD, close_timeout=GUARD) as client:
        names = [extension.name for extension in client.protocol.extensions]
        assert names == ([] if path == "/plain" else ["permessage-deflate"])
        for message in MESSAGES:
            client.send(message)
            assert client.recv(timeout=GUARD) == message
        client.send(["in ", "three ", "fragments"])
        assert client.recv(timeout=GUARD) == "in three fragments"
        assert client.ping().wait(GUARD)
        client.close(4000, "done")
        assert client.close_code == 4000


def test_websockets_gets_a_subprotocol(url: str) -> None:
    with connect(f"{url}/plain", subprotocols=["other.example", "echo.example"], open_timeout=GUARD) as client:  # type: ignore[list-item]
        assert client.subprotocol == "echo.example"


@paths
def test_aiohttp_exchange(url: str, path: str) -> None:
    async def exchange() -> None:
        bits = 0 if path == "/plain" else 15
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url + path, compress=bits, max_msg_size=0) as client,
        ):
            assert bool(client.compress) == (path != "/plain")
            for message in MESSAGES:
                if isinstance(message, str):
                    await client.send_str(message)
                    assert await client.receive_str() == message
                else:
                    await client.send_bytes(message)
                    assert await client.receive_bytes() == message
            await client.close(code=4000, message=b"done")
            assert client.close_code == 4000

    asyncio.run(asyncio.wait_for(exchange(), GUARD))


def test_websocket_client_exchange(url: str) -> None:
    # This client offers no compression, so the server must not use it.
    for path in ("/plain", "/deflate"):
        client = websocket.create_connection(url + path, timeout=GUARD)
        for message in MESSAGES:
            if isinstance(message, str):
                client.send(message)
            else:
                client.send_binary(message)
            assert client.recv() == message
        client.close(status=4000, reason=b"done", timeout=GUARD)
        assert not client.connected


NODE_CLIENT = """
const { WebSocket } = require("ws");
const [url, deflate, files] = [process.argv[2], process.argv[3] === "true", JSON.parse(process.argv[4])];
const fs = require("fs");
const messages = files.map(([file, binary]) => [fs.readFileSync(file), binary]);
const client = new WebSocket(url, { perMessageDeflate: deflate ? { threshold: 0 } : false, maxPayload: 0 });
let next = 0;
const send = () => client.send(messages[next][0], { binary: messages[next][1] });
client.on("open", send);
client.on("message", (data, binary) => {
  if (!data.equals(messages[next][0]) || binary !== messages[next][1]) throw new Error("message " + next);
  next += 1;
  if (next < messages.length) send(); else client.close(4000, "done");
});
client.on("close", (code) => {
  console.log(JSON.stringify({ echoed: next, code, extensions: client.extensions }));
});
"""


@pytest.fixture(scope="module")
def node() -> str:
    """Return the path of Node.js, after installing the package `ws`."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("the npm package ws is tested with Node.js only: apt-get install nodejs npm")
    command = [npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(NODE_MODULES), NODE_PACKAGE]
    if not (NODE_MODULES / "node_modules" / "ws").is_dir():
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            reason = f"{' '.join(command)}: {done.stderr.strip()}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
    return program


@paths
def test_ws_of_node_exchange(url: str, path: str, node: str, tmp_path: Path) -> None:
    files = []
    for number, message in enumerate(MESSAGES):
        file = tmp_path / str(number)
        file.write_bytes(message.encode() if isinstance(message, str) else message)
        files.append((str(file), isinstance(message, bytes)))
    (tmp_path / "client.js").write_text(NODE_CLIENT)
    deflate = path != "/plain"
    done = subprocess.run(
        [node, str(tmp_path / "client.js"), url + path, json.dumps(deflate), json.dumps(files)],
        env={**os.environ, "NODE_PATH": str(NODE_MODULES / "node_modules")},
        capture_output=True,
        text=True,
        timeout=GUARD * 2,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result.pop("extensions").startswith("permessage-deflate") == deflate
    assert result == {"echoed": len(MESSAGES), "code": 4000}
