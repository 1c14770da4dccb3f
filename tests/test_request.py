"""The request as a component sees it: fields, query and cookies, also those of somebody hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.http import Headers, QueryParams, Request

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


def test_query_parameters_give_the_last_of_several() -> None:
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
def test_odd_queries_are_read_somehow(query: str) -> None:
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


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_a_request_made_by_hand() -> None:
    request = Request()
    assert (request.method, request.path, request.query_string) == ("GET", "/", "")
    assert (request.scheme, request.host, request.port, request.http_version) == ("http", "", None, (1, 1))
    assert request.headers.multi_items() == ()
    assert request.cookies == {}
    assert dict(request.query_params) == {}
    assert request.path_params == {}
    assert request.subprotocols == ()


def test_query_and_path_parameters_are_apart() -> None:
    request = Request(path="/room/7", query_string="id=8")
    request.path_params = {"id": 7}
    assert request.query_params["id"] == "8"
    assert request.path_params["id"] == 7


def test_what_is_read_from_the_head_is_read_once() -> None:
    request = Request(headers=[("Cookie", "a=1")], query_string="a=1")
    assert request.cookies is request.cookies
    assert request.query_params is request.query_params


def test_headers_are_taken_as_they_are() -> None:
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


def test_a_request_takes_no_free_attributes() -> None:
    with pytest.raises(AttributeError):
        Request().user = "ana"  # type: ignore[attr-defined]


def test_what_a_peer_wrote_stays_on_one_line_and_short() -> None:
    shown = repr(Request(path="/x\n2024-01-01 ERROR\x1b[2J\u2028\u202eيا" + "y" * 1000))
    assert "/x\\n2024-01-01 ERROR\\x1b[2J\\u2028\\u202eيا" in shown
    assert len(shown) < 300


NAMES = st.text(st.sampled_from("abcXYZ-_09"), min_size=1, max_size=5)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=10)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_packed_headers_are_the_same(items: list[tuple[str, str]]) -> None:
    plain, packed = Headers(items), Headers(items)
    packed.pack()
    packed.pack()
    names = {name for name, _ in items} | {"other"}
    assert [packed.getlist(name) for name in names] == [plain.getlist(name) for name in names]
    packed.pack()
    assert packed.multi_items() == plain.multi_items()
    packed.pack()
    assert (dict(packed), len(packed), list(packed)) == (dict(plain), len(plain), list(plain))
    packed.pack()
    assert [name in packed for name in names] == [name in plain for name in names]
    packed.pack()
    assert repr(packed) == repr(plain)
