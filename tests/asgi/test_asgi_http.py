"""Plain HTTP requests to an App on ASGI servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.asgi_servers import ask, hosted
from support.wire import get

from pywsapp import App, Refuse, Request, Response

pytestmark = pytest.mark.anyio


@pytest.fixture
def app() -> App:
    app = App()

    @app.http("/hello")
    def hello(request: Request) -> dict[str, str]:
        return {"path": request.path, "query": request.query_string, "peer": request.remote_address}

    @app.http("/echo", methods=["POST"])
    async def echo(request: Request) -> bytes:
        return await request.read(10)

    @app.http("/pieces")
    async def pieces(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"piece"

        return Response(body(), content_length=15, headers={"X-Kind": "stream"})

    @app.http("/broken")
    def broken(request: Request) -> Response:
        return Response("x", headers={"X-Bad": "a\r\nSet-Cookie: b"})

    @app.http("/no")
    def no(request: Request) -> None:
        raise Refuse(403, body="not you")

    return app


async def test_an_answer(app: App) -> None:
    async with hosted(app) as port:
        response = await ask(port, get("/hello?a=b%20c", host=f"127.0.0.1:{port}"))
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert response.body == b'{"path":"/hello","query":"a=b%20c","peer":"127.0.0.1"}'


async def test_a_body_and_its_limit(app: App) -> None:
    head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    async with hosted(app) as port:
        small = await ask(port, f"{head}Content-Length: 5\r\n\r\nhello".encode())
        large = await ask(port, f"{head}Content-Length: 11\r\n\r\nhello world".encode())
        chunks = await ask(
            port, f"{head}Transfer-Encoding: chunked\r\n\r\n8\r\nabcdefgh\r\n8\r\nijklmnop\r\n0\r\n\r\n".encode()
        )
    assert (small.status, small.body) == (200, b"hello")
    assert (large.status, chunks.status) == (413, 413)


async def test_a_body_in_pieces(app: App) -> None:
    async with hosted(app) as port:
        response = await ask(port, get("/pieces"))
    assert (response.headers["x-kind"], response.body) == ("stream", b"piecepiecepiece")


async def test_the_head_alone(app: App) -> None:
    async with hosted(app) as port:
        whole = await ask(port, get("/hello"))
        import socket

        from support.wire import Peer  # the length of a HEAD response is that of no body

        async with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
            await peer.send(get("/hello", method="HEAD"))
            status, fields = await peer.head()
    assert status == 200
    assert fields["content-length"] == str(len(whole.body))


async def test_refusals_and_faults(app: App, caplog: pytest.LogCaptureFixture) -> None:
    async with hosted(app) as port:
        assert (await ask(port, get("/no"))).body == b"not you\n"
        assert (await ask(port, get("/nothing"))).status == 404
        broken = await ask(port, get("/broken"))
        assert app.stats().refused == {403: 1, 404: 1, 500: 1}
    assert broken.status == 500
    assert "set-cookie" not in broken.headers
    assert "must be latin-1 text of one line" in caplog.text


async def test_the_host_is_checked_only_if_it_is_given(app: App) -> None:
    async with hosted(app) as port:
        assert (await ask(port, get("/hello", host="any.example"))).status == 200
    app.configure(http_host="chat.example")
    strict = App("chat.example")
    strict.http("/hello", lambda request: "hello")
    async with hosted(strict) as port:
        assert (await ask(port, get("/hello", host="any.example"))).status == 404
        assert (await ask(port, get("/hello", host="chat.example"))).status == 200
