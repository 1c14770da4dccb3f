"""The body of a plain HTTP request: its exact limit, and how it arrives."""

from __future__ import annotations

import inspect
from typing import Any

import anyio
import pytest
from support.wire import Peer, Site, peer_of, serving

from pywsapp import Options, Request, Response

pytestmark = pytest.mark.anyio

LIMIT = 1000
DEFAULT = inspect.signature(Request.read).parameters["max_size"].default


def head(size: int) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()


class Reading(Site):
    """A site that reads the body, and answers with its size.

    Args:
        max_size: the argument of `Request.read`; None for its default.
    """

    def __init__(self, max_size: int | None) -> None:
        super().__init__()
        self.asked = anyio.Event()
        self._arguments = () if max_size is None else (max_size,)

    async def on_request(self, request: Any) -> Response:
        self.asked.set()
        return Response(str(len(await request.read(*self._arguments))))


@pytest.mark.parametrize("arrives", ["with the head", "later"])
@pytest.mark.parametrize("max_size", [0, 1, LIMIT, None])
async def test_a_body_of_exactly_the_limit_is_accepted(max_size: int | None, arrives: str) -> None:
    size = DEFAULT if max_size is None else max_size
    site = Reading(max_size)
    async with serving(site) as server, peer_of(server) as peer:
        await send(peer, site, head(size), bytes(size), arrives)
        response = await peer.response()
        assert (response.status, response.body) == (200, str(size).encode())


@pytest.mark.parametrize("max_size", [0, 1, LIMIT, None])
async def test_one_byte_more_than_the_limit_is_refused_before_it_arrives(max_size: int | None) -> None:
    limit = DEFAULT if max_size is None else max_size
    async with serving(Reading(max_size)) as server, peer_of(server) as peer:
        await peer.send(head(limit + 1))
        status, _ = await peer.head()
        assert status == 413
        peer.end()
        assert await peer.read_to_end() == f"the body is longer than {limit} bytes\n".encode()


@pytest.mark.parametrize("missing", [0, 1])
async def test_a_body_is_complete_with_its_last_byte(missing: int) -> None:
    site = Reading(LIMIT)
    async with serving(site, Options(handshake_timeout=0.3 if missing else 10)) as server, peer_of(server) as peer:
        await send(peer, site, head(LIMIT), bytes(LIMIT - missing), "later")
        status, _ = await peer.head()
        assert status == (503 if missing else 200)


async def send(peer: Peer, site: Reading, request: bytes, body: bytes, arrives: str) -> None:
    if arrives == "with the head":
        await peer.send(request + body)
    else:
        await peer.send(request)
        await site.asked.wait()
        await peer.send(body)
