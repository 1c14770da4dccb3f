"""Requests of webhooks over httpx, on asyncio and trio. It is imported on demand, because httpx belongs to an extra.

The transport of httpx is used without its client: that would follow what environment variables and `.netrc` say, keep
cookies, and log whole URLs.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from pywsapp._clients.log_filter import filter_logs, logs_filtered
from pywsapp._extras import missing_extra
from pywsapp._http_text import one_line
from pywsapp.webhooks.delivery import Answer, Unreachable
from pywsapp.webhooks.sender import Post

try:
    import httpx
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "webhooks") from exc

filter_logs("httpcore.connection", "httpcore.http11")  # which log all fields of an answer at DEBUG

#: Bytes of an answer that are read, so that its connection can be used again.
_MAX_ANSWER = 16 * 1024


@asynccontextmanager
async def open_client(url: str, seconds: float) -> AsyncIterator[Post]:
    """Return what sends a request to a URL and returns the answer, for the time of a block.

    Args:
        url: the URL.
        seconds: for a whole request.
    """
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    context = ssl.create_default_context()  # the certificates of the system, and not those that httpx brings
    async with httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False) as transport:

        async def post(headers: Mapping[str, str], body: bytes) -> Answer:
            opened: list[Any] = []  # the network stream, if the request opens one

            async def note(event: str, info: Mapping[str, Any]) -> None:
                if event == "connection.connect_tcp.complete":
                    opened.append(info["return_value"])

            request = httpx.Request("POST", url, headers=headers, content=body, extensions={"trace": note})
            try:
                with logs_filtered(), anyio.fail_after(seconds):
                    return await _send(transport, request, opened)
            except TimeoutError:
                raise Unreachable(f"no answer within {seconds:g} s") from None
            except httpx.HTTPError as exc:
                raise Unreachable(one_line(f"{type(exc).__name__} {_text_of(exc)}".rstrip())) from exc

        yield post


def _text_of(exc: BaseException) -> str:
    """Return the text of an exception; on trio only its cause has one."""
    found: BaseException | None = exc
    while found is not None and not str(found):
        found = found.__cause__ or found.__context__
    return "" if found is None else str(found)


async def _send(transport: httpx.AsyncHTTPTransport, request: httpx.Request, opened: Sequence[Any]) -> Answer:
    try:
        response = await transport.handle_async_request(request)
    except BaseException:
        # httpcore leaves the network stream open if the handshake of TLS is cancelled.
        with anyio.CancelScope(shield=True):
            for stream in opened:
                await stream.aclose()
        raise
    try:
        size = 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > _MAX_ANSWER:
                break
        return Answer(response.status_code, response.headers.get("retry-after", ""))
    finally:
        await response.aclose()
