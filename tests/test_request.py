"""The request as a component sees it: header fields, query, cookies and state; hostile input included."""

from __future__ import annotations

import copy
import gc
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.http import Headers, QueryParams, Request, _pack_headers, _set_body

# -- header fields -----------------------------------------------------------------------------------------------------


def test_headers_ignore_case_and_keep_repeated_fields() -> None:
    headers = Headers([("Host", "a"), ("X-Many", "1"), ("x-many", "2"), ("ORIGIN", "b")])
    assert headers["host"] == headers["HOST"] == headers["Host"] == "a"
    assert headers["x-many"] == "1"
    assert headers.getlist("X-MANY") == ["1", "2"]
    assert headers.getlist("absent") == []
    assert headers.get("absent") is None
    assert headers.get("absent", "d") == "d"
    assert "oRiGiN" in headers
    assert "absent" not in headers
    assert list(headers) == ["host", "x-many", "origin"]
    assert len(headers) == 3
    assert headers.multi_items() == (("host", "a"), ("x-many", "1"), ("x-many", "2"), ("origin", "b"))
    assert dict(headers) == {"host": "a", "x-many": "1", "origin": "b"}
    assert repr(headers) == "Headers([('host', 'a'), ('x-many', '1'), ('x-many', '2'), ('origin', 'b')])"


def test_headers_without_a_field() -> None:
    headers = Headers()
    assert not headers
    assert list(headers) == []
    with pytest.raises(KeyError, match="absent"):
        headers["Absent"]


@given(st.lists(st.tuples(st.sampled_from(["A", "a", "B", "b-C"]), st.text(max_size=3)), max_size=8))
def test_any_headers_are_a_consistent_mapping(items: list[tuple[str, str]]) -> None:
    headers = Headers(items)
    assert len(list(headers)) == len(headers) == len(set(headers))
    for name in headers:
        values = [value for key, value in items if key.lower() == name]
        assert headers[name.upper()] == values[0]
        assert headers.getlist(name) == values


# -- query -------------------------------------------------------------------------------------------------------------


def test_the_last_of_several_query_parameters_counts() -> None:
    params = QueryParams("room=a&room=b&empty=&space=x+y&umlaut=%C3%BC&bare&=unnamed")
    assert params["room"] == "b"
    assert params.getlist("room") == ["a", "b"]
    assert params["empty"] == params["bare"] == ""
    assert params["space"] == "x y"
    assert params["umlaut"] == "ü"
    assert params[""] == "unnamed"
    assert params.getlist("absent") == []
    assert list(params) == ["room", "empty", "space", "umlaut", "bare", ""]
    assert len(params) == 6
    assert repr(QueryParams("a=1")) == "QueryParams([('a', '1')])"
    with pytest.raises(KeyError):
        params["absent"]


@pytest.mark.parametrize("query", ["", "&", "&&&", "%", "%ff=%fe", "%zz=1", "=", "a=b;c=d", "a[]=1"])
def test_odd_queries_are_parsed(query: str) -> None:
    assert all(isinstance(value, str) for value in QueryParams(query).values())


def test_a_semicolon_divides_nothing() -> None:
    assert dict(QueryParams("a=b;c=d")) == {"a": "b;c=d"}


def test_the_number_of_query_parameters_is_bounded() -> None:
    assert len(QueryParams("&".join(f"k{number}=" for number in range(8000)))) == 1000


# -- cookies -----------------------------------------------------------------------------------------------------------


def cookies(*fields: str) -> dict[str, str]:
    return Request(headers=[("Cookie", field) for field in fields]).cookies


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1; b=2", {"a": "1", "b": "2"}),
        ("a=1;b=2;", {"a": "1", "b": "2"}),
        ("a=1; a=2", {"a": "1"}),
        ("a=x=y==", {"a": "x=y=="}),
        ('a="quoted"', {"a": "quoted"}),
        ('a="', {"a": '"'}),
        ('a=""', {"a": ""}),
        ("a=", {"a": ""}),
        ("=1", {"": "1"}),
        ("bare; a=1", {"a": "1"}),
        (" \ta=1\t ; b=2", {"a": "1", "b": "2"}),
        ("a=1, b=2", {"a": "1, b=2"}),
        ("a=\x85x\xa0", {"a": "\x85x\xa0"}),
    ],
)
def test_cookies(field: str, expected: dict[str, str]) -> None:
    assert cookies(field) == expected


def test_cookies_of_several_fields() -> None:
    assert cookies("a=1", "b=2; a=3") == {"a": "1", "b": "2"}


@given(st.text(max_size=60))
def test_any_cookie_field_is_read(field: str) -> None:
    assert all("=" not in name and ";" not in name + value for name, value in cookies(field).items())


# -- the request -------------------------------------------------------------------------------------------------------


def test_a_request_made_by_hand() -> None:
    request = Request()
    assert (request.method, request.path, request.query_string) == ("GET", "/", "")
    assert (request.scheme, request.host, request.port, request.http_version) == ("http", "", None, (1, 1))
    assert request.headers.multi_items() == ()
    assert request.cookies == {}
    assert dict(request.query_params) == {}
    assert request.path_params == {}
    assert request.subprotocols == ()
    assert request.app is None


def test_query_and_path_parameters_are_separate() -> None:
    request = Request(path="/room/7", query_string="id=8", path_params={"id": 7})
    assert request.query_params["id"] == "8"
    assert request.path_params["id"] == 7


def test_cookies_and_query_are_parsed_once() -> None:
    request = Request(headers=[("Cookie", "a=1")], query_string="a=1")
    assert request.cookies is request.cookies
    assert request.query_params is request.query_params


def test_headers_are_not_copied() -> None:
    headers = Headers([("A", "1")])
    assert Request(headers=headers).headers is headers


def test_a_request_shows_no_secrets() -> None:
    request = Request(
        path="/chat",
        query_string="token=secret",
        headers=[("Cookie", "session=secret")],
        remote_address="10.0.0.1",
    )
    assert repr(request) == "<Request GET /chat from 10.0.0.1>"
    assert repr(Request()) == "<Request GET / from local>"


def test_a_request_has_a_user_that_its_copies_share() -> None:
    request = Request(user="ana")
    copied = copy.copy(request)
    assert (request.user, copied.user) == ("ana", "ana")
    copied.state.color = "red"
    assert (request.state.color, request.user) == ("red", "ana")
    assert (Request().user, Request().client_certificate, request.client_certificate) == (None, None, None)


def test_secrets_are_not_shown() -> None:
    assert repr(Headers([("Cookie", "s"), ("A", "1")])) == "Headers([('cookie', '...'), ('a', '1')])"
    assert repr(QueryParams("token=s&a=1")) == "QueryParams([('token', '...'), ('a', '1')])"


def test_a_request_takes_no_free_attributes() -> None:
    with pytest.raises(AttributeError):
        Request().name = "ana"  # type: ignore[attr-defined]


def test_what_a_peer_wrote_stays_on_one_line_and_short() -> None:
    shown = repr(Request(path="/x\n2024-01-01 ERROR\x1b[2J\u2028\u202eيا" + "y" * 1000))
    assert "/x\\n2024-01-01 ERROR\\x1b[2J\\u2028\\u202eيا" in shown
    assert len(shown) < 300


# -- the body ----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_body_comes_from_the_server() -> None:
    async def read(max_size: int) -> bytes:
        return b"at most %d" % max_size

    request = Request()
    assert await request.read() == b""
    _set_body(request, read)
    assert await request.read(7) == b"at most 7"
    assert await copy.copy(request).read() == b"at most 65536"


# -- state and application ---------------------------------------------------------------------------------------------


def test_the_state_is_made_on_first_use() -> None:
    request = Request()
    assert not any(isinstance(held, SimpleNamespace) for held in gc.get_referents(request))
    request.state.user = "ana"
    assert request.state.user == "ana"
    with pytest.raises(AttributeError):
        request.state = SimpleNamespace()  # type: ignore[misc]


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_copies_share_one_state_whichever_uses_it_first(first: int) -> None:
    """The router copies the request for a mount; `on_handshake` in the mount and `conn.request` see the same state."""
    request = Request()
    inner = copy.copy(request)
    innermost = copy.copy(inner)
    requests = [request, inner, innermost, copy.copy(request)]
    requests[first].state.user = "ana"
    assert all(each.state is request.state for each in requests)
    assert copy.copy(innermost).state.user == "ana"


def test_other_requests_have_another_state() -> None:
    assert Request().state is not Request().state


def test_a_copy_is_apart_but_for_what_is_shared() -> None:
    request = Request(path="/a/b", query_string="x=1", headers=[("Cookie", "c=1")], app=object())
    inner = copy.copy(request)
    inner.path = "/b"
    inner.path_params["id"] = 7
    assert (request.path, request.path_params) == ("/a/b", {"id": 7})
    assert (inner.headers, inner.app) == (request.headers, request.app)
    assert (inner.query_params["x"], inner.cookies) == ("1", {"c": "1"})


# -- packed headers ----------------------------------------------------------------------------------------------------


NAMES = st.text(st.sampled_from("abcXYZ-_09"), min_size=1, max_size=5)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=10)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_packed_headers_are_the_same(items: list[tuple[str, str]]) -> None:
    plain, packed = Headers(items), Headers(items)
    _pack_headers(packed)
    _pack_headers(packed)
    names = {name for name, _ in items} | {"other"}
    assert [packed.getlist(name) for name in names] == [plain.getlist(name) for name in names]
    _pack_headers(packed)
    assert packed.multi_items() == plain.multi_items()
    _pack_headers(packed)
    assert (dict(packed), len(packed), list(packed)) == (dict(plain), len(plain), list(plain))
    _pack_headers(packed)
    assert [name in packed for name in names] == [name in plain for name in names]
    _pack_headers(packed)
    assert repr(packed) == repr(plain)
