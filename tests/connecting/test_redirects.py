"""Redirects, off by default: never from wss to ws, and nothing secret goes to another origin."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
import trustme
from support.client_proxies import proxying
from support.client_servers import Server, echoing
from support.serving import GUARD

from pywsapp import App, HandshakeError, Headers, Refuse, connect
from pywsapp._connecting.arguments import ConnectArguments, check_arguments
from pywsapp._connecting.redirects import redirected

SECRETS: dict[str, Any] = {
    "headers": {"Authorization": "Bearer hunter2", "X-Api-Key": "hunter2", "Origin": "https://page.example"},
    "cookies": {"session": "hunter2"},
    "subprotocols": ["chat", "bearer", "bearer.hunter2"],
}


class Redirecting(Server):
    """Redirects the paths of a table, and echoes at others."""

    def __init__(self, locations: dict[str, str], status: int = 302) -> None:
        super().__init__()
        self.locations, self.status = locations, status

    def on_handshake(self, request: Any) -> None:
        super().on_handshake(request)
        if request.path in self.locations:
            location = self.locations[request.path]
            raise Refuse(self.status, headers={"Location": location}, body="x" * 5000)


@asynccontextmanager
async def servers(*components: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[list[App]]:
    with anyio.fail_after(GUARD):
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(echoing(one, tls=tls)) for one in components]


async def path_of(url: str, **arguments: Any) -> str:
    """Return the path of the request that a server has accepted."""
    async with connect(url, **arguments) as conn:
        await conn.send("hello")
        assert await conn.receive() == "hello"
        return conn.request.path


@pytest.mark.anyio
async def test_a_redirect_of_each_status_is_followed() -> None:
    server = Redirecting({"/": "/next?a=b"})
    async with servers(server) as [app]:
        url = f"ws://127.0.0.1:{app.port}/"
        for server.status in (301, 302, 303, 307, 308):
            assert await path_of(url, max_redirects=1, **SECRETS) == "/next"
            with pytest.raises(HandshakeError, match=f"answered {server.status}"):
                await path_of(url)
    assert server.requests[1].query_params["a"] == "b"
    assert server.requests[1].headers["authorization"] == "Bearer hunter2", "it is the same origin"
    assert server.requests[1].headers["cookie"] == "session=hunter2"


@pytest.mark.anyio
async def test_another_origin_gets_no_secrets() -> None:
    other = Server()
    async with servers(other) as [there]:
        first = Redirecting({"/": f"http://127.0.0.1:{there.port}/next", "/two": f"ws://127.0.0.1:{there.port}/"})
        async with servers(first) as [here]:
            for path in ("/", "/two"):
                await path_of(f"ws://127.0.0.1:{here.port}{path}", max_redirects=2, **SECRETS)
    assert [request.headers["authorization"] for request in first.requests] == ["Bearer hunter2"] * 2
    for request in other.requests:
        assert "hunter2" not in str(request.headers.multi_items())
        assert request.headers["origin"] == "https://page.example"
        assert request.subprotocols == ("chat", "bearer")


@pytest.mark.anyio
async def test_the_way_back_brings_no_secrets_back() -> None:
    """The other server could lead to any path of the first one."""
    one, two = Redirecting({}), Redirecting({})
    async with servers(one, two) as [here, there]:
        one.locations["/"] = f"http://127.0.0.1:{there.port}/"
        two.locations["/"] = f"http://127.0.0.1:{here.port}/x"
        await path_of(f"ws://127.0.0.1:{here.port}/", max_redirects=2, **SECRETS)
    assert [request.headers.get("authorization") for request in one.requests] == ["Bearer hunter2", None]


@pytest.mark.anyio
async def test_a_loop_of_redirects_ends() -> None:
    server = Redirecting({"/": "/"})
    async with servers(server) as [app]:
        with pytest.raises(HandshakeError, match="more than 3 redirects"):
            await path_of(f"ws://127.0.0.1:{app.port}/", max_redirects=3)
    assert len(server.requests) == 4


@pytest.mark.anyio
async def test_from_wss_to_ws() -> None:
    authority = trustme.CA()
    server_tls, client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server_tls)
    server_tls.options |= ssl.OP_NO_RENEGOTIATION
    authority.configure_trust(client_tls)
    plain = Server()
    async with servers(plain) as [there]:
        for scheme in ("ws", "http"):
            first = Redirecting({"/": f"{scheme}://localhost:{there.port}/", "/two": "/three"})
            async with servers(first, tls=server_tls) as [here]:
                url = f"wss://localhost:{here.port}"
                with pytest.raises(HandshakeError, match="from wss to ws, which is never followed"):
                    await path_of(f"{url}/", max_redirects=5, tls=client_tls)
                assert await path_of(f"{url}/two", max_redirects=5, tls=client_tls) == "/three"
    assert plain.requests == []


@pytest.mark.anyio
async def test_a_redirect_behind_a_proxy_goes_through_the_proxy() -> None:
    server = Redirecting({"/": "/next"})
    async with servers(server) as [app], proxying("http") as proxy:
        url = f"ws://chat.test:{app.port}/"
        assert await path_of(url, max_redirects=1, proxy=f"http://127.0.0.1:{proxy.port}") == "/next"
        assert len(proxy.requests) == 2


# -- where a redirect leads to -----------------------------------------------------------------------------------------


def answer(*locations: str) -> HandshakeError:
    return HandshakeError("redirect", 302, headers=Headers([("location", location) for location in locations]))


def leads(url: str, *locations: str) -> ConnectArguments:
    return redirected(check_arguments(url, **SECRETS), answer(*locations))


@pytest.mark.once
@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b", "wss://chat.example/b"),
        ("b", "wss://chat.example/dir/b"),
        ("../b#part", "wss://chat.example/b"),
        ("?q", "wss://chat.example/dir/a?..."),
        ("//other.example/b", "wss://other.example/b"),
        ("https://other.example:444/", "wss://other.example:444/"),
        ("WSS://other.example", "wss://other.example/"),
        ("https://chat.example:443/b", "wss://chat.example/b"),
    ],
)
def test_locations(location: str, target: str) -> None:
    found = leads("wss://chat.example/dir/a", location)
    assert str(found.target) == target
    has_secrets = b"hunter2" in found.handshake.request
    assert has_secrets == (found.target.host == "chat.example")


@pytest.mark.once
@pytest.mark.parametrize("location", ["ws://chat.example:443/", "wss://chat.example:444/", "wss://www.chat.example/"])
def test_another_port_scheme_or_host_is_another_origin(location: str) -> None:
    found = leads("ws://chat.example:80/", location)
    assert b"hunter2" not in found.handshake.request
    assert found.server_hostname is None


@pytest.mark.once
@pytest.mark.parametrize(
    "location",
    [
        "http://ana:hunter2@other.example/",
        "ftp://other.example/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://other.example:99999/",
        "https://[::1/",
        "/ü",
        "/a b",
        "/" + "x" * 5000,
    ],
)
def test_locations_that_are_refused(location: str) -> None:
    with pytest.raises(HandshakeError) as refused:
        leads("wss://chat.example/", location)
    assert refused.value.status == 302
    assert "hunter2" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.once
def test_two_locations_are_refused() -> None:
    with pytest.raises(HandshakeError, match="several"):
        leads("wss://chat.example/", "/a", "/b")
