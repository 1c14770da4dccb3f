"""The connection of a webhook to its receiver."""

from __future__ import annotations

import socket

import anyio
import anyio.to_thread
import pytest
from support.serving import GUARD

from pywsapp.webhooks.delivery import Unreachable
from pywsapp.webhooks.with_httpx import open_client

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["time limit", "cancelled"])
async def test_a_connection_whose_tls_handshake_does_not_end_is_closed(is_cancelled: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(GUARD)
        async with (
            open_client(f"https://127.0.0.1:{server.getsockname()[1]}/", 60 if is_cancelled else 0.5) as post,
            anyio.create_task_group() as tasks,
        ):

            async def fail() -> None:
                while not has_begun:  # the time limit can end before the ClientHello has left
                    with pytest.raises(Unreachable, match=r"no answer within 0.5 s"):
                        await post({}, b"")

            has_begun = False
            tasks.start_soon(fail)
            while not has_begun:
                sock, _ = await anyio.to_thread.run_sync(server.accept)
                sock.settimeout(GUARD)
                received = sock.makefile("rb")
                has_begun = await anyio.to_thread.run_sync(received.read, 2) == b"\x16\x03"  # a ClientHello
            with sock, received:
                if is_cancelled:
                    tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(received.read)  # to the end of the connection
