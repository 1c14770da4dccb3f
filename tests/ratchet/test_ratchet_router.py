"""Ratchet's Http\\Router: from a path and a host to a component.

These tests prove some of the cases:

    Router 1  tests/routing/test_router.py  test_an_unknown_path_is_404
    Router 3  tests/routing/test_router.py  test_an_invalid_component_is_refused_when_it_is_routed
    Router 8  tests/routing/test_router.py  test_path_parameters_are_converted_and_separate_from_the_query
    Router 9  tests/routing/test_router.py  test_path_parameters_are_converted_and_separate_from_the_query
    Router [src]  tests/routing/test_router.py  test_other_methods_are_405_at_a_route_and_404_elsewhere

Parameters have types here, and are separate from the query. In Ratchet, a client can override them in the query
(Router 9).
"""

from __future__ import annotations

from typing import Any

import pytest
from support.ratchet_peer import Recorder, connected, handshake, opened, serving

from pywsapp import App, Connection, Request

pytestmark = pytest.mark.anyio


def rooms() -> tuple[App, Recorder, Recorder]:
    """Return an app and its two components, at /a and /b."""
    app, first, second = App(port=0), Recorder(), Recorder()
    app.route("/a", first)
    app.route("/b", second)
    return app, first, second


async def test_router_2_there_is_no_open_without_a_request() -> None:
    """Router 2: Ratchet throws when on_open has no request; here every connection has a request."""
    app, first, _ = rooms()
    async with serving(app), opened(app, "/a"):
        await first.until_called("on_open")
        [(conn,)] = first.arguments_of("on_open")
        assert isinstance(conn.request, Request)
        with pytest.raises(TypeError):
            Connection()  # type: ignore[call-arg]


async def test_router_4_the_component_of_the_route_is_opened() -> None:
    """Router 4: on_open of the component at the path is called with the connection, which has the request."""
    app, first, second = rooms()
    async with serving(app), opened(app, "/b?x=1"):
        await second.until_called("on_open")
        [(conn,)] = second.arguments_of("on_open")
        assert (conn.request.path, conn.request.query_string) == ("/b", "x=1")
        assert first.names == []


async def test_router_5_messages_go_to_the_component_of_the_connection() -> None:
    """Router 5: on_message is called on the component that got on_open, with connection and message."""
    app, first, second = rooms()
    async with serving(app), opened(app, "/a") as one, opened(app, "/b") as two:
        await one.send("for a")
        await two.send("for b")
        await first.until_called("on_message")
        await second.until_called("on_message")
    for component, message in ((first, "for a"), (second, "for b")):
        assert component.arguments_of("on_message") == [(component.arguments_of("on_open")[0][0], message)]


async def test_router_6_closes_go_to_the_component_of_the_connection() -> None:
    """Router 6: on_close is called on the component that got on_open."""
    app, first, second = rooms()
    async with serving(app), opened(app, "/b"):
        async with opened(app, "/a"):
            pass
        await first.until_called("on_close")
        assert first.arguments_of("on_close") == first.arguments_of("on_open")
        assert second.arguments_of("on_close") == []


async def test_router_7_errors_go_to_the_component_of_the_connection() -> None:
    """Router 7: on_error is called on the component that got on_open, with the exception object."""
    failure = ValueError("never mind")

    class Failing(Recorder):
        def on_message(self, conn: Connection, message: Any) -> Any:
            raise failure

    app, first, _ = rooms()
    failing = Failing()
    app.route("/c", failing)
    async with serving(app), opened(app, "/c") as peer:
        await peer.send("hello")
        await failing.until_called("on_error")
        assert failing.arguments_of("on_error") == [(failing.arguments_of("on_open")[0][0], failure)]
        assert first.names == []


async def test_router_9_a_client_cannot_override_a_parameter() -> None:
    """Router 9: in Ratchet `?id=2` overrides the id of the path; here both are kept apart."""
    app, recorder = App(port=0), Recorder()
    app.route("/users/{id:int}", recorder)
    async with serving(app), opened(app, "/users/1?id=2"):
        await recorder.until_called("on_open")
        request = recorder.arguments_of("on_open")[0][0].request
        assert request.path_params == {"id": 1}
        assert request.query_params["id"] == "2"


async def test_router_10_bytes_after_a_404_are_ignored() -> None:
    """Router 10: a client that sends more after a 404 gets one response and the end; others are not affected."""
    app, first, _ = rooms()
    async with serving(app), opened(app, "/a") as other, connected(app) as peer:
        await peer.write(handshake("/nothing") + b"Silly body")
        assert (await peer.response()).status == 404
        await peer.shut_down_sending()
        assert await peer.read_to_end() == b""
        await other.send("still open")
        await first.until_called("on_message")
        assert first.names == ["on_open", "on_message"]


async def test_router_src_a_class_is_made_for_each_connection() -> None:
    """Router [src]: in Ratchet a class makes a component for each request; here it makes one for each handshake."""
    made = []

    class Counted(Recorder):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    app = App(port=0)
    app.route("/", Counted)
    async with serving(app), opened(app), opened(app):
        assert len(made) == 2
        for component in made:
            await component.until_called("on_open")
            assert component.names == ["on_open"]
