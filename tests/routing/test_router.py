"""The router: which route matches a request, and what a client gets if none does."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable
from typing import Any

import pytest

from pywsapp._protocol.handshake import UPGRADE_HEADERS
from pywsapp.component import Accept, HandshakeAnswer, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.middleware.ip_filter import IpBlackList
from pywsapp.middleware.origin import OriginCheck
from pywsapp.options import Options
from pywsapp.routing.responses import HttpHandler
from pywsapp.routing.route import RouteInfo
from pywsapp.routing.router import Router


class Chat(MessageComponent):
    """Records its requests, and returns a fixed answer to a handshake."""

    def __init__(self, answer: HandshakeAnswer = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    def on_handshake(self, request: Request) -> HandshakeAnswer | Awaitable[HandshakeAnswer]:
        self.requests.append(request)
        return self.answer


class SlowChat(Chat):
    async def on_handshake(self, request: Request) -> HandshakeAnswer:
        return self.answer


def get(path: str, host: str = "example.com", **others: Any) -> Request:
    return Request(path=path, host=host, **others)


def shake(router: Router, path: str, host: str = "example.com", **others: Any) -> Accept:
    answer = router.on_handshake(get(path, host, **others))
    assert isinstance(answer, Accept)
    return answer


def ask(router: Router, path: str, host: str = "example.com", **others: Any) -> Response:
    answer = router.on_request(get(path, host, **others))
    assert isinstance(answer, Response)
    return answer


def saying(text: str) -> HttpHandler:
    return lambda request: text


def refusal(router: Router, path: str, host: str = "example.com", *, plain: bool = False, **others: Any) -> Refuse:
    with pytest.raises(Refuse) as caught:
        (router.on_request if plain else router.on_handshake)(get(path, host, **others))
    body = caught.value.body
    assert body is None or "\n" not in str(body)
    return caught.value


# -- WebSocket handshakes ----------------------------------------------------------------------------------------------


def test_an_unknown_path_is_404() -> None:  # Ratchet's Router 1
    router = Router()
    router.route("/chat", Chat())
    assert refusal(router, "/nothing").status == 404


def test_an_invalid_component_is_refused_when_it_is_routed() -> None:  # Ratchet's Router 3, there at the first request
    router = Router()
    for wrong in (object(), "Chat", dict, 5):
        with pytest.raises(ConfigurationError):
            router.route("/chat", wrong)  # type: ignore[arg-type]
    assert router.routes() == []


def test_path_parameters_are_converted_and_separate_from_the_query() -> None:  # Ratchet's Router 8 and 9
    router, chat = Router(), Chat()
    router.route("/{foo}/{number:int}", chat)
    request = get("/bar/5", query_string="hello=world&foo=nope")
    router.on_handshake(request)
    assert chat.requests == [request]
    assert request.path_params == {"foo": "bar", "number": 5}
    assert dict(request.query_params) == {"hello": "world", "foo": "nope"}


def test_a_refused_handshake_has_no_lasting_effect() -> None:  # Ratchet's Router 10
    router, chat = Router(), Chat()
    router.route("/chat", chat)
    assert refusal(router, "/silly").status == 404
    assert chat.requests == []
    assert shake(router, "/chat").component is chat


def test_the_component_of_the_route_gets_the_connection() -> None:
    router, chat = Router(), Chat()
    router.route("/chat", chat)
    assert shake(router, "/chat") == Accept(component=chat)


@pytest.mark.anyio
async def test_an_async_on_handshake_is_awaited() -> None:
    router, chat = Router(), SlowChat("v2")
    router.route("/chat", chat, require_subprotocol=True)
    answer = router.on_handshake(get("/chat"))
    assert inspect.isawaitable(answer)
    assert await answer == Accept(component=chat, subprotocol="v2", require_subprotocol=True)


def test_a_class_or_function_makes_a_component_for_each_handshake() -> None:
    router = Router()
    router.route("/class", Chat)
    router.route("/function", lambda: Chat("v1"))
    first, second = shake(router, "/class").component, shake(router, "/class").component
    assert isinstance(first, Chat)
    assert isinstance(second, Chat)
    assert first is not second
    assert shake(router, "/function").subprotocol == "v1"


def test_an_exception_of_a_factory_is_not_caught_here() -> None:
    def broken() -> Chat:
        raise LookupError("no database")

    router = Router()
    router.route("/chat", broken)
    with pytest.raises(LookupError):
        router.on_handshake(get("/chat"))


def test_a_route_sets_what_the_answer_of_the_component_does_not() -> None:
    router, options = Router(), Options(max_message_size=10)
    router.route("/chat", Chat(), subprotocols=["v2", "v1"], require_subprotocol=True, options=options)
    accept = shake(router, "/chat")
    assert (accept.subprotocols, accept.require_subprotocol, accept.options) == (("v2", "v1"), True, options)


def test_the_answer_of_the_component_overrides_the_route() -> None:
    own, other = Options(max_queue=3), Chat()
    router = Router()
    answer = Accept(component=other, subprotocols=["v3"], headers=(("X-A", "b"),), options=own)
    router.route("/chat", Chat(answer), subprotocols=["v1"], options=Options(max_queue=1))
    assert shake(router, "/chat") == answer


def test_the_component_inside_of_middleware_is_found() -> None:
    router, chat = Router(), Chat()
    router.route("/chat", IpBlackList(OriginCheck(chat)), subprotocols=["v1"])
    assert shake(router, "/chat") == Accept(component=chat, subprotocols=("v1",))


def test_a_handshake_at_an_http_route_says_there_is_no_websocket() -> None:
    router = Router()
    router.http("/page", lambda request: "hello")
    refuse = refusal(router, "/page")
    assert refuse.status == 404
    assert "no WebSocket" in str(refuse.body)


@pytest.mark.parametrize("turn", [1, -1])
def test_fixed_text_comes_before_a_parameter_in_either_order(turn: int) -> None:
    new, named, router = Chat(), Chat(), Router()
    for path, chat in [("/rooms/{name}", named), ("/rooms/new", new)][::turn]:
        router.route(path, chat)
    assert shake(router, "/rooms/new").component is new
    assert shake(router, "/rooms/other").component is named


def test_the_next_route_is_tried_if_a_parameter_cannot_be_converted() -> None:
    number, name, router = Chat(), Chat(), Router()
    router.route("/{name}", name)
    router.route("/{id:int}", number)
    assert shake(router, "/5").component is number
    assert shake(router, "/five").component is name


def test_the_same_route_twice_is_refused_and_names_both() -> None:
    router = Router()
    router.route("/rooms/{name}", Chat())
    with pytest.raises(ConfigurationError, match=r"'/rooms/\{id:str\}' \(SlowChat\) and '/rooms/\{name\}' \(Chat\)"):
        router.route("/rooms/{id:str}", SlowChat())
    router.route("/rooms/{name}", Chat(), http_host="other.example")
    router.http("/rooms/{name}", lambda request: None)
    router.mount("/rooms/{name}", Chat())
    with pytest.raises(ConfigurationError, match="route twice"):
        router.mount("/rooms/{name}/", Chat())
    with pytest.raises(ConfigurationError, match="route twice"):
        router.route("/rooms/{name}", Chat(), http_host="*")  # this router answers to any host anyway


@pytest.mark.parametrize(
    "arguments",
    [
        {"subprotocols": "chat"},
        {"subprotocols": ["a b"]},
        {"subprotocols": [""]},
        {"subprotocols": [1]},
        {"options": {"max_queue": 3}},
        {"http_host": "http://example.com"},
    ],
)
def test_wrong_arguments_of_a_route_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Router().route("/chat", Chat(), **arguments)


# -- plain HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "status", "body", "content_type"),
    [
        ("<b>é</b>", 200, "<b>é</b>".encode(), "text/plain; charset=utf-8"),
        (b"\x00", 200, b"\x00", "application/octet-stream"),
        ({"a": [1, "é"]}, 200, '{"a":[1,"é"]}'.encode(), "application/json"),
        ([1, 2], 200, b"[1,2]", "application/json"),
        (None, 204, b"", None),
        (Response.html("hi", 201), 201, b"hi", "text/html; charset=utf-8"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_values_that_a_handler_can_return(
    method: str, value: Any, status: int, body: bytes, content_type: str | None
) -> None:
    router = Router()
    router.http("/page", lambda request: value)
    response = ask(router, "/page", method=method)
    assert (response.status, response.body) == (status, body)
    assert dict(response.headers).get("Content-Type") == content_type


@pytest.mark.anyio
async def test_a_handler_can_be_async() -> None:
    async def page(request: Request) -> str:
        return str(request.path_params["id"])

    router = Router()
    router.http("/page/{id:int}", page)
    answer = router.on_request(get("/page/5"))
    assert inspect.isawaitable(answer)
    assert (await answer).body == b"5"


def test_another_return_value_of_a_handler_is_explained() -> None:
    def page(request: Request) -> object:
        return object()

    router = Router()
    router.http("/page", page)
    with pytest.raises(TypeError, match="page must return a Response"):
        router.on_request(get("/page"))


def test_an_exception_of_a_handler_is_not_caught_here() -> None:
    router = Router()
    router.http("/page", lambda request: request.query_params["id"])
    with pytest.raises(KeyError):
        router.on_request(get("/page"))


@pytest.mark.parametrize("handler", [None, "page", dict.get, lambda request, more: "too many"])
def test_an_invalid_handler_is_refused(handler: Any) -> None:
    with pytest.raises(ConfigurationError):
        Router().http("/page", handler)


def test_other_methods_are_405_at_a_route_and_404_elsewhere() -> None:
    router = Router()
    router.http("/page", lambda request: "hello")
    router.route("/chat", Chat())
    for path in ("/page", "/chat"):
        refuse = refusal(router, path, plain=True, method="POST")
        assert (refuse.status, refuse.headers) == (405, (("Allow", "GET, HEAD"),))
    assert refusal(router, "/nothing", plain=True, method="POST").status == 404
    assert refusal(router, "*", plain=True, method="OPTIONS").status == 404


def test_routes_of_one_path_can_have_different_methods() -> None:
    router = Router()
    router.http("/items", saying("list"))
    router.http("/items", saying("create"), methods=["post"])
    router.http("/{name}", saying("any"), methods=("GET", "DELETE"))
    answers = {method: ask(router, "/items", method=method).body for method in ("GET", "HEAD", "POST", "DELETE")}
    assert answers == {"GET": b"list", "HEAD": b"list", "POST": b"create", "DELETE": b"any"}
    refuse = refusal(router, "/items", plain=True, method="PATCH")
    assert (refuse.status, refuse.headers) == (405, (("Allow", "GET, HEAD, POST, DELETE"),))


def test_a_handler_without_get_is_405_for_get_and_head_also_before_a_mount() -> None:
    router, rest = Router(), Router()
    rest.http("/{path:path}", saying("rest"))
    router.http("/hook", saying("hook"), methods=["POST"])
    router.mount("/", rest)
    for method in ("GET", "HEAD"):
        refuse = refusal(router, "/hook", plain=True, method=method)
        assert (refuse.status, refuse.headers) == (405, (("Allow", "POST"),))
    assert ask(router, "/hook", method="POST").body == b"hook"
    assert ask(router, "/other").body == b"rest"


def test_websocket_and_handler_of_another_method_share_a_path() -> None:
    router = Router()
    router.route("/chat", Chat())
    router.http("/chat", saying("posted"), methods=["POST"])
    assert ask(router, "/chat", method="POST").body == b"posted"
    assert refusal(router, "/chat", plain=True).status == 426
    assert refusal(router, "/chat", plain=True, method="PUT").headers == (("Allow", "GET, HEAD, POST"),)


def test_plain_http_at_a_websocket_is_answered_by_its_component() -> None:
    class Page(MessageComponent):
        def on_request(self, request: Request) -> Response:
            return Response(f"room {request.path_params['room']}")

    router = Router()
    router.route("/chat", Chat)
    router.route("/page/{room}", Page)
    refuse = refusal(router, "/chat", plain=True)
    assert (refuse.status, refuse.headers) == (426, UPGRADE_HEADERS)
    assert ask(router, "/page/5").body == b"room 5"


def test_websocket_and_page_share_a_path() -> None:
    router, chat = Router(), Chat()
    router.route("/chat", chat)
    router.http("/{page}", lambda request: request.path_params["page"])
    assert shake(router, "/chat").component is chat
    assert ask(router, "/chat").body == b"chat"


# -- mounts ------------------------------------------------------------------------------------------------------------


def test_a_mount_sees_the_path_without_the_prefix_and_all_parameters() -> None:
    inner, outer, chat = Router(), Router(), Chat()
    inner.route("/rooms/{room}", chat)
    inner.http("/", lambda request: f"{request.path} of {request.path_params['tenant']}")
    outer.mount("/t/{tenant:int}", inner)
    request = get("/t/7/rooms/blue")
    answer = outer.on_handshake(request)
    assert answer == Accept(component=chat)
    assert chat.requests[0].path == "/rooms/blue"
    assert request.path == "/t/7/rooms/blue"
    assert request.path_params == chat.requests[0].path_params == {"tenant": 7, "room": "blue"}
    assert ask(outer, "/t/7/").body == b"/ of 7"
    assert refusal(outer, "/t/x/").status == 404


def test_mounts_can_be_nested() -> None:
    outer, middle, inner = Router(), Router(), Router()
    inner.http("/{c}", lambda request: [request.path, request.path_params])
    middle.mount("/{b}", inner)
    outer.mount("/{a}", middle)
    assert ask(outer, "/1/2/3").body == b'["/3",{"a":"1","b":"2","c":"3"}]'


def test_the_prefix_alone_is_a_websocket_path_and_is_redirected_over_http() -> None:
    inner, outer, chat = Router(), Router(), Chat()
    inner.route("/", chat)
    outer.mount("/in side", inner)
    assert shake(outer, "/in side").component is chat
    assert shake(outer, "/in side/").component is chat
    response = ask(outer, "/in side", query_string="q=1")
    assert response.status == 308
    assert dict(response.headers)["Location"] == "in%20side/?q=1"
    assert refusal(outer, "/in side", plain=True, method="POST").status == 405


@pytest.mark.parametrize("prefix", ["", "/"])
def test_a_mount_at_the_root_matches_what_no_route_matches(prefix: str) -> None:
    rest, chat, router = Router(), Chat(), Router()
    rest.http("/{path:path}", lambda request: f"rest {request.path}")
    router.mount(prefix, rest)
    router.route("/chat", chat)
    router.http("/page", lambda request: "page")
    assert shake(router, "/chat").component is chat
    assert refusal(router, "/chat", plain=True).status == 426
    assert ask(router, "/page").body == b"page"
    assert ask(router, "/other/one").body == b"rest /other/one"
    assert ask(router, "/").body == b"rest /"


def test_a_longer_prefix_comes_first() -> None:
    router = Router()
    for prefix in ("/a", "/a/b", "/"):
        inner = Router()
        inner.http("/{path:path}", saying(prefix))
        router.mount(prefix, inner)
    assert ask(router, "/a/b/c").body == b"/a/b"
    assert ask(router, "/a/c").body == b"/a"
    assert ask(router, "/ab").body == b"/"


def test_wrong_mounts_are_refused() -> None:
    router = Router()
    with pytest.raises(ConfigurationError, match="itself"):
        router.mount("/x", router)
    with pytest.raises(ConfigurationError, match="whole rest"):
        router.mount("/x/{path:path}", Chat())
    with pytest.raises(ConfigurationError):
        router.mount("x", Chat())
    with pytest.raises(ConfigurationError):
        router.mount("/x", "folder")  # type: ignore[arg-type]


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_the_host_of_the_router_applies_to_routes_without_a_host() -> None:
    router, chat, other = Router("localhost"), Chat(), Chat()
    router.route("/chat", chat)
    router.route("/other", other, http_host="*.example.com")
    router.route("/any", other, http_host="*")
    assert shake(router, "/chat", "localhost").component is chat
    assert refusal(router, "/chat", "a.example.com").status == 404
    assert shake(router, "/other", "a.example.com").component is other
    assert refusal(router, "/other", "example.com").status == 404
    assert refusal(router, "/other", "localhost").status == 404
    assert shake(router, "/any", "evil.example").component is other


def test_the_router_accepts_an_address_as_host_and_a_route_does_not() -> None:
    router = Router("localhost")
    router.route("/chat", Chat())
    router.route("/strict", Chat(), http_host="localhost")
    shake(router, "/chat", "127.0.0.1")
    shake(router, "/chat", "::1")
    assert refusal(router, "/strict", "127.0.0.1").status == 404
    by_address = Router("10.0.0.1")
    by_address.route("/chat", Chat())
    shake(by_address, "/chat", "10.0.0.1")
    assert refusal(by_address, "/chat", "10.0.0.2").status == 404


def test_a_route_with_a_host_comes_before_one_for_any_host() -> None:
    router, everywhere, subdomain, there = Router(), Chat(), Chat(), Chat()
    router.route("/chat", everywhere)
    router.route("/{name}", subdomain, http_host="*.example.com")
    router.route("/{path:path}", there, http_host="a.example.com")
    assert shake(router, "/chat", "localhost").component is everywhere
    assert shake(router, "/chat", "b.example.com").component is subdomain
    assert shake(router, "/chat", "a.example.com").component is there


def test_a_router_can_answer_to_several_hosts() -> None:
    router = Router(["example.com", "*.example.com"])
    router.route("/chat", Chat())
    shake(router, "/chat", "example.com")
    shake(router, "/chat", "www.example.com")
    assert refusal(router, "/chat", "evil.example").status == 404


def test_one_name_of_this_machine_stands_for_all_of_the_router_but_not_of_a_route() -> None:
    for name in ("localhost", "127.0.0.1", "[::1]"):
        router = Router(name)
        router.route("/chat", Chat())
        for host in ("localhost", "127.0.0.1", "::1"):
            shake(router, "/chat", host)
        assert refusal(router, "/chat", "evil.example").status == 404
    router.route("/strict", Chat(), http_host="127.0.0.1")
    assert refusal(router, "/strict", "localhost").status == 404


def test_the_host_of_the_router_can_be_changed() -> None:
    router = Router("old.example")
    router.route("/chat", Chat())
    router.route("/own", Chat(), http_host="own.example")
    router.set_http_host(["new.example", "*.new.example"])
    router.route("/later", Chat())
    shake(router, "/chat", "new.example")
    shake(router, "/later", "www.new.example")
    shake(router, "/own", "own.example")
    assert refusal(router, "/chat", "old.example").status == 404
    assert refusal(router, "/own", "new.example").status == 404
    router.route("/chat", Chat(), http_host="*")
    with pytest.raises(ConfigurationError, match="route twice"):
        router.set_http_host("*")


def test_a_wrong_host_is_explained_once_in_the_log_and_not_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    router = Router("localhost")
    router.route("/chat", Chat())
    router.http("/page", lambda request: "hello")
    with caplog.at_level(logging.WARNING, "pywsapp"):
        first = refusal(router, "/chat", "evil.example")
        refusal(router, "/chat", "evil.example")
        refusal(router, "/page", "evil.example", plain=True)
    assert "'evil.example'" in str(first.body)
    assert "localhost" not in str(first.body), "the names of hosts can be internal"
    [record] = caplog.records
    assert "'evil.example'" in record.getMessage()
    assert "localhost" in record.getMessage()
    assert "http_host" in record.getMessage()


def test_an_unknown_path_is_not_blamed_on_the_host(caplog: pytest.LogCaptureFixture) -> None:
    router = Router("localhost")
    router.route("/chat", Chat())
    assert "host" not in str(refusal(router, "/nothing", "evil.example").body)
    assert caplog.records == []


def test_invented_hosts_neither_flood_the_log_nor_break_its_lines(caplog: pytest.LogCaptureFixture) -> None:
    router = Router("localhost")
    router.route("/chat", Chat())
    refuse = refusal(router, "/chat", "evil\r\nexample\x85" + "x" * 1000)
    assert len(str(refuse.body)) < 300
    for number in range(500):
        refusal(router, "/chat", f"evil{number}.example")
    assert 1 < len(caplog.records) <= 100
    assert all(len(record.getMessage().splitlines()) == 1 for record in caplog.records)


def test_an_invalid_host_of_a_router_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        Router("http://example.com")


# -- introspection -----------------------------------------------------------------------------------------------------


def test_routes_are_listed_in_the_order_in_which_they_are_tried() -> None:
    def page(request: Request) -> None: ...

    router = Router("localhost")
    router.mount("/", Router())
    router.http("/{name}", page)
    router.route("/chat", OriginCheck(Chat))
    router.route("/blocked", IpBlackList(OriginCheck(Chat())), http_host="*")
    router.route("/special", SlowChat, http_host="a.example")
    assert router.routes() == [
        RouteInfo("websocket", "a.example", "/special", "SlowChat"),
        RouteInfo("websocket", "localhost", "/chat", "OriginCheck(Chat)"),
        RouteInfo("http", "localhost", "/{name}", page.__qualname__, ("GET", "HEAD")),
        RouteInfo("mount", "localhost", "/", "Router"),
        RouteInfo("websocket", "*", "/blocked", "IpBlackList(OriginCheck(Chat))"),
    ]
