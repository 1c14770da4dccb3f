"""What a client shows of an answer that is not 101: the beginning of its content, without secrets."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from hypothesis import given
from hypothesis import strategies as st
from support.client_servers import answering
from support.serving import GUARD

from pywsapp import HandshakeError, Headers, Options, connect
from pywsapp._connecting import dialing
from pywsapp._connecting.refusal import MAX_BODY, RefusalBody


async def refusal(url: str, options: Options | None = None) -> HandshakeError:
    with anyio.fail_after(GUARD), pytest.raises(HandshakeError) as refused:
        async with connect(
            f"{url}?token=hunter2%2B&x=1",
            headers={"Authorization": "Bearer secret-token"},
            cookies={"session": "secret-cookie"},
            subprotocols=["bearer", "bearer.secret-subprotocol"],
            options=options,
        ):
            pytest.fail("the block is entered")
    text = str(refused.value)
    assert not any(secret in text for secret in ("hunter2", "secret-"))
    assert text.isprintable()
    assert len(text) < 400
    return refused.value


MESSAGES: list[tuple[bytes, str]] = [
    (b"HTTP/1.1 404 Not Found\r\n\r\n", "the server answered 404 Not Found"),
    (b"HTTP/1.1 404 Not Found\r\n\r\nno\r\n  such \tpath", "the server answered 404 Not Found: no such path"),
    (b"HTTP/1.1 404 X\r\nContent-Length: 2\r\n\r\nnone", "the server answered 404 X: no"),
    (b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\nnone", "the server answered 404 X"),
    (b"HTTP/1.1 404 X\r\nContent-Length: -1\r\n\r\nnone", "the server answered 404 X: none"),
    (
        b"HTTP/1.1 404 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n3;a=b\r\nne!\r\n0\r\n\r\n",
        "the server answered 404 X: none!",
    ),
    (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, "the server answered 200 OK: " + "x" * 150),
    (b"HTTP/1.1 403 X\r\n\r\n\x1b[31m\x9b\xff\xfe", "the server answered 403 X: \\x1b[31m���"),
    (
        b"HTTP/1.1 404 /?token=hunter2%2B&x=1\r\n\r\nCannot GET /?token=hunter2%2B&x=1, hunter2+",
        "the server answered 404 /?...: Cannot GET /?..., ...",
    ),
    (
        b"HTTP/1.1 401 X\r\n\r\nBearer secret-token session=secret-cookie; secret-cookie bearer.secret-subprotocol",
        "the server answered 401 X: ... ...; ... ...",
    ),
]


@pytest.mark.anyio
async def test_the_message_of_a_refusal() -> None:
    for answer, text in MESSAGES:
        async with answering(answer) as url:
            assert str(await refusal(url)) == text


@pytest.mark.anyio
async def test_the_attributes_of_a_refusal() -> None:
    async with answering(b"HTTP/1.1 503 Later\r\nRetry-After: 3\r\n\r\n" + b"y" * 5000) as url:
        refused = await refusal(url)
    assert refused.headers is not None
    assert (refused.status, refused.headers["retry-after"], refused.body) == (503, "3", b"y" * MAX_BODY)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body_seconds", "handshake_timeout"), [(0.05, 3 * GUARD), (3 * GUARD, 1)], ids=["content", "handshake"]
)
async def test_content_that_does_not_end_is_not_waited_for(
    body_seconds: float, handshake_timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "BODY_SECONDS", body_seconds)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nbeginning")
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
            ended.set()

    ended = anyio.Event()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(SocketAttribute.local_port)
        refused = await refusal(f"ws://127.0.0.1:{port}/", Options(handshake_timeout=handshake_timeout))
        with anyio.fail_after(GUARD):
            await ended.wait()  # the client closes the connection
        tasks.cancel_scope.cancel()
    assert str(refused) == "the server answered 404 Not Found: beginning"


def body(content: bytes, *fields: tuple[str, str]) -> RefusalBody:
    return RefusalBody(HandshakeError("refused", 404, headers=Headers(list(fields)), body=content))


@pytest.mark.once
@given(st.lists(st.binary(max_size=300), max_size=12), st.sampled_from(["", "chunked", "gzip, chunked"]), st.text())
def test_any_content_is_bounded(pieces: list[bytes], coding: str, length: str) -> None:
    fields = [("transfer-encoding", coding)] if coding else [("content-length", length)]
    one = body(b"", *fields)
    for piece in pieces:
        one.receive(piece)
    assert len(one.content) <= MAX_BODY
    assert len(one._raw) <= 4 * MAX_BODY


@pytest.mark.once
@given(st.lists(st.binary(min_size=1, max_size=99), max_size=8), st.integers(1, 50))
def test_chunks_cut_at_any_place(pieces: list[bytes], step: int) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    one = body(b"", ("transfer-encoding", "chunked"))
    for start in range(0, len(raw), step):
        one.receive(raw[start : start + step])
    assert one.is_complete
    assert one.content == b"".join(pieces)


@pytest.mark.once
def test_endless_chunk_extensions_end() -> None:
    one = body(b"5;" + b"x" * 100_000, ("transfer-encoding", "chunked"))
    assert one.is_complete
    assert one.content == b""
