from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.exceptions import ConfigurationError
from pywsapp.routing.host_pattern import HostPattern, host_name, is_address
from pywsapp.routing.path_pattern import PathPattern

ID = uuid.UUID("12345678-1234-5678-9abc-123456789abc")


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/", "/", {}),
        ("/chat", "/chat", {}),
        ("/chat/", "/chat/", {}),
        ("/a.c", "/a.c", {}),
        ("/rooms/{name}", "/rooms/the lobby", {"name": "the lobby"}),
        ("/rooms/{name:str}", "/rooms/lobby", {"name": "lobby"}),
        ("/rooms/{name}", "/rooms/a\nb", {"name": "a\nb"}),
        ("/n/{id:int}", "/n/-007", {"id": -7}),
        ("/p/{v:float}", "/p/-1.5", {"v": -1.5}),
        ("/p/{v:float}", "/p/2", {"v": 2.0}),
        ("/x/{id:uuid}", f"/x/{str(ID).upper()}", {"id": ID}),
        ("/files/{path:path}", "/files/a/b//c", {"path": "a/b//c"}),
        ("/files/{path:path}", "/files/", {"path": ""}),
        ("/v{version:int}/{name}.txt", "/v2/a.txt.txt", {"version": 2, "name": "a.txt"}),
    ],
)
def test_a_pattern_returns_the_converted_parameters(pattern: str, path: str, params: dict[str, Any]) -> None:
    found = PathPattern(pattern).match(path)
    assert found == params
    assert found is not None
    assert {name: type(value) for name, value in found.items()} == {name: type(v) for name, v in params.items()}


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/", ""),
        ("/", "*"),
        ("/chat", "/chat/"),
        ("/chat", "/Chat"),
        ("/chat", "/chat\n"),
        ("/a.c", "/abc"),
        ("/rooms/{name}", "/rooms/"),
        ("/rooms/{name}", "/rooms/a/b"),
        ("/n/{id:int}", "/n/1.0"),
        ("/n/{id:int}", "/n/" + "1" * 19),
        ("/n/{id:int}", "/n/١"),
        ("/n/{id:int}", "/n/1\n"),
        ("/p/{v:float}", "/p/nan"),
        ("/p/{v:float}", "/p/1e5"),
        ("/p/{v:float}", "/p/1."),
        ("/x/{id:uuid}", "/x/12345678123456789abc123456789abc"),
        ("/files/{path:path}", "/files"),
        ("/{name}.txt", "/.txt"),
    ],
)
def test_a_pattern_does_not_match_anything_else(pattern: str, path: str) -> None:
    assert PathPattern(pattern).match(path) is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "begin with '/'"),
        ("chat", "begin with '/'"),
        (8080, "must be a str"),
        ("/chat?room=1", "query"),
        ("/chat#top", "query"),
        ("/{name", "unmatched brace"),
        ("/name}", "unmatched brace"),
        ("/{{name}}", "unmatched brace"),
        ("/{a/b}", "unmatched brace"),
        ("/{}", "cannot name a parameter"),
        ("/{1st}", "cannot name a parameter"),
        ("/{na-me}", "cannot name a parameter"),
        ("/{größe}", "cannot name a parameter"),
        ("/{name}/{name}", "two parameters are called 'name'"),
        ("/{a}-{b}", "only one parameter"),
        ("/{id:integer}", "the types are float, int, path, str, uuid"),
        ("/{id:}", "the types are float, int, path, str, uuid"),
        ("/{id:int:int}", "the types are float, int, path, str, uuid"),
        ("/{rest:path}/end", "stand alone after the last slash"),
        ("/x{rest:path}", "stand alone after the last slash"),
    ],
)
def test_an_invalid_pattern_is_refused_with_a_reason(pattern: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        PathPattern(pattern)


def test_patterns_sort_from_specific_to_general() -> None:
    ordered = [
        "/rooms",
        "/rooms/new",
        "/rooms/{id:uuid}",
        "/rooms/{id:int}",
        "/rooms/{id:float}",
        "/rooms/room-{id}",
        "/rooms/r{id}",
        "/rooms/{id}",
        "/rooms/{rest:path}",
        "/{a}/new",
        "/{a}/{b}",
        "/{rest:path}",
    ]
    patterns = [PathPattern(text) for text in reversed(ordered)]
    assert [pattern.text for pattern in sorted(patterns, key=lambda p: p.specificity)] == ordered


def test_the_shape_is_the_pattern_without_names() -> None:
    assert PathPattern("/a/{x}").shape == PathPattern("/a/{y:str}").shape
    assert PathPattern("/a/{x}").shape != PathPattern("/a/{x:int}").shape
    assert PathPattern("/a/{x}").shape != PathPattern("/a/v{x}").shape
    assert PathPattern("/a/{x}").shape != PathPattern("/a/x").shape


def test_a_prefix_matches_up_to_a_slash_or_the_end() -> None:
    pattern = PathPattern("/t/{tenant}")
    assert pattern.match_prefix("/t/a") == ({"tenant": "a"}, "")
    assert pattern.match_prefix("/t/a/") == ({"tenant": "a"}, "/")
    assert pattern.match_prefix("/t/a/b/c") == ({"tenant": "a"}, "/b/c")
    assert pattern.match_prefix("/t/") is None
    assert PathPattern("/files").match_prefix("/filesystem") is None
    assert PathPattern("/").match_prefix("/any/where") == ({}, "/any/where")


LITERALS = st.text(st.characters(blacklist_characters="/{}?#", blacklist_categories=["Cs"]), max_size=5)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(st.characters(blacklist_characters="/", blacklist_categories=["Cs"]), min_size=1),
    "int": st.integers(-(10**18) + 1, 10**18 - 1),
    "uuid": st.uuids(),
    "float": st.decimals(-1000, 1000, places=3).map(float),
}


@st.composite
def filled_patterns(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """A pattern, a path that was made from it, and the values that were filled in."""
    pattern, path, values = "", "", {}
    for number in range(draw(st.integers(1, 5))):
        before, behind = draw(LITERALS), draw(LITERALS)
        kind = draw(st.sampled_from([None, *VALUES]))
        if kind is None:
            pattern, path = f"{pattern}/{before}", f"{path}/{before}"
            continue
        value = values[f"p{number}"] = draw(VALUES[kind])
        pattern, path = f"{pattern}/{before}{{p{number}:{kind}}}{behind}", f"{path}/{before}{value}{behind}"
    if draw(st.booleans()):
        values["rest"] = draw(st.text(st.characters(blacklist_categories=["Cs"])))
        pattern, path = pattern + "/{rest:path}", f"{path}/{values['rest']}"
    return pattern, path, values


@given(filled_patterns())
def test_a_path_made_from_a_pattern_returns_its_values(filled: tuple[str, str, dict[str, Any]]) -> None:
    text, path, values = filled
    assert PathPattern(text).match(path) == values


@given(filled_patterns(), st.text(max_size=10))
def test_a_prefix_returns_the_rest_of_the_path(filled: tuple[str, str, dict[str, Any]], rest: str) -> None:
    text, path, values = filled
    if "rest" not in values:
        prefix = PathPattern(text.rstrip("/") or "/")
        if text.endswith("/"):
            path = path.rstrip("/")
        assert prefix.match_prefix(f"{path}/{rest}") == (values, f"/{rest}")


@given(st.text(max_size=30))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        pattern = PathPattern(text)
    except ConfigurationError:
        return
    assert pattern.match(text) is not None or "{" in text


def test_matching_is_linear_in_the_path() -> None:
    pattern = PathPattern("/a{b}c/{d}aaaa/{e:float}/x{f}x/{g}a/{rest:path}")

    def seconds(length: int) -> float:
        paths = ["/" + "a" * length, ("/" + "a" * 50) * (length // 50), "/" * length, "/ac" + "c" * length + "/b"]
        best = []
        for path in paths:
            laps = []
            for _ in range(5):
                begin = time.perf_counter()
                pattern.match(path)
                pattern.match_prefix(path)
                laps.append(time.perf_counter() - begin)
            best.append(min(laps))
        return sum(best)

    # 16 times the length: 16 when linear, 256 when quadratic
    assert seconds(160_000) < 100 * seconds(10_000) + 0.001


@pytest.mark.parametrize(
    ("names", "host", "expected"),
    [
        (None, "anything", True),
        ("*", "", True),
        ("Example.COM", "example.com", True),
        ("example.com", "www.example.com", False),
        ("example.com", "", False),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "evilexample.com", False),
        (["a.example", "*.b.example"], "x.b.example", True),
        (["a.example", "*.b.example"], "a.example", True),
        (["a.example", "*.b.example"], "b.example", False),
        ("[::1]", "::1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost", "127.0.0.1", False),
    ],
)
def test_hosts_match_names_and_subdomains(names: str | list[str] | None, host: str, expected: bool) -> None:
    assert HostPattern(names).match(host) is expected


def test_hosts_with_or_address_match_every_address_if_one_is_a_name() -> None:
    assert HostPattern("localhost", or_address=True).match("127.0.0.1")
    assert HostPattern(["10.0.0.1", "localhost"], or_address=True).match("::1")
    assert not HostPattern("localhost", or_address=True).match("evil.example")
    assert not HostPattern("localhost", or_address=True).match("127.0.0.1.evil.example")
    assert not HostPattern("127.0.0.1", or_address=True).match("10.0.0.1")


def test_hosts_sort_from_one_to_any() -> None:
    hosts = [
        HostPattern("example.com"),
        HostPattern("*.www.example.com"),
        HostPattern("*.example.com"),
        HostPattern("localhost", or_address=True),
        HostPattern("*"),
    ]
    backwards = hosts[::-1]
    assert sorted(backwards, key=lambda h: h.specificity) == hosts


@pytest.mark.parametrize(
    "name",
    [
        "",
        "http://example.com",
        "example.com:80",
        "example.com/",
        "*example.com",
        "a.*.com",
        "a b",
        "a..b",
        "bücher.de",
        8,
    ],
)
def test_an_invalid_host_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError):
        host_name(name)


def test_an_empty_list_of_hosts_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="empty list"):
        HostPattern([])


def test_addresses_are_no_names() -> None:
    assert is_address("127.0.0.1")
    assert is_address("::1")
    assert not is_address("localhost")
    assert not is_address("1.2.3")
