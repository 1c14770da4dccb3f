from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.component import Accept, HandshakeAnswer, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.middleware.origin import AllowedOrigins, Origin, OriginCheck, parse_origin


class Chat(MessageComponent):
    asked = 0

    def on_handshake(self, request: Request) -> HandshakeAnswer:
        self.asked += 1
        return "v1"

    def on_request(self, request: Request) -> Response:
        return Response("a page")


def handshake(*origins: str, host: str = "example.com", port: int | None = None, scheme: str = "http") -> Request:
    return Request(path="/chat", host=host, port=port, scheme=scheme, headers=[("Origin", o) for o in origins])


def allows(check: OriginCheck, *origins: str, **others: Any) -> bool:
    try:
        check.on_handshake(handshake(*origins, **others))
        return True
    except Refuse as exc:
        refuse = exc
    assert refuse.status == 403
    assert "\n" not in str(refuse.body)
    return False


# -- as in Ratchet -----------------------------------------------------------------------------------------------------


def test_another_origin_is_refused_and_the_component_is_not_called() -> None:  # OriginCheck 1
    chat = Chat()
    assert not allows(OriginCheck(chat, ["localhost"]), "http://example.com")
    assert chat.asked == 0


def test_a_listed_origin_reaches_the_component_once() -> None:  # OriginCheck 2
    chat = Chat()
    answer = OriginCheck(chat, ["localhost"]).on_handshake(handshake("http://localhost"))
    assert chat.asked == 1
    assert answer == Accept(component=chat, subprotocol="v1")


def test_the_hooks_of_a_connection_are_those_of_the_component_inside() -> None:  # OriginCheck 3, 4, 5
    chat = Chat()
    answer = OriginCheck(chat, ["*"]).on_handshake(handshake("http://localhost"))
    assert isinstance(answer, Accept)
    assert answer.component is chat


def test_the_list_can_be_changed_at_any_time() -> None:  # OriginCheck 6
    check = OriginCheck(Chat(), ["https://a.example"])
    assert not allows(check, "https://b.example")
    check.allowed_origins.append("https://b.example")
    assert allows(check, "https://b.example")
    check.allowed_origins.remove("https://a.example")
    assert not allows(check, "https://a.example")
    check.allowed_origins[:] = ["https://c.example", "https://d.example"]
    check.allowed_origins[0] = "https://e.example"
    assert check.allowed_origins[:] == ["https://e.example", "https://d.example"]
    assert list(check.allowed_origins) == check.allowed_origins[:]
    assert repr(check.allowed_origins) == "['https://e.example', 'https://d.example']"
    assert allows(check, "https://d.example")
    assert not allows(check, "https://b.example")
    check.allowed_origins = ["*"]
    assert allows(check, "https://b.example")
    check.allowed_origins = None
    assert not allows(check, "https://b.example")


# -- the same origin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "port", "scheme", "expected"),
    [
        ("http://example.com", "example.com", None, "http", True),
        ("HTTP://Example.COM", "example.com", None, "http", True),
        ("http://example.com:80", "example.com", None, "http", True),
        ("http://example.com", "example.com", 80, "http", True),
        ("http://example.com:8080", "example.com", 8080, "http", True),
        ("http://example.com:8080", "example.com", None, "http", False),
        ("http://example.com", "example.com", 8080, "http", False),
        ("http://www.example.com", "example.com", None, "http", False),
        ("http://example.com.evil.example", "example.com", None, "http", False),
        ("https://example.com", "example.com", None, "https", True),
        ("https://example.com:443", "example.com", None, "https", True),
        ("https://example.com", "example.com", 443, "https", True),
        ("https://example.com", "example.com", None, "http", True),  # TLS ends at a proxy
        ("http://example.com", "example.com", None, "https", False),
        ("https://example.com:80", "example.com", None, "http", False),
        ("http://[::1]:8080", "::1", 8080, "http", True),
        ("http://[::1]", "::2", None, "http", False),
        ("ws://example.com", "example.com", None, "http", False),
        ("file://example.com", "example.com", None, "http", False),
        ("null", "null", None, "http", False),
        ("null", "example.com", None, "http", False),
    ],
)
@pytest.mark.parametrize("given_list", [None, []], ids=["none", "empty"])
def test_without_a_list_the_origin_must_be_the_same(
    origin: str, host: str, port: int | None, scheme: str, expected: bool, given_list: list[str] | None
) -> None:
    assert allows(OriginCheck(Chat(), given_list), origin, host=host, port=port, scheme=scheme) is expected


# -- a list ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "origin", "expected"),
    [
        ("https://example.com", "https://example.com", True),
        ("https://example.com", "https://example.com:443", True),
        ("https://example.com:443", "https://example.com", True),
        ("HTTPS://EXAMPLE.com", "https://example.COM", True),
        ("https://example.com", "http://example.com", False),
        ("https://example.com", "https://example.com:8443", False),
        ("https://example.com:8443", "https://example.com:8443", True),
        ("https://example.com", "https://www.example.com", False),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
        ("https://*.example.com:8443", "https://a.example.com", False),
        ("example.com", "http://example.com:8080", True),
        ("example.com", "https://example.com", True),
        ("example.com", "https://a.example.com", False),
        ("*.example.com", "capacitor://a.example.com", True),
        ("localhost:3000", "http://localhost:3000", True),
        ("localhost:3000", "http://localhost:3001", False),
        ("localhost:443", "https://localhost", True),
        ("http://[::1]:3000", "http://[::1]:3000", True),
        ("[::1]", "http://[::1]:3000", True),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", True),
        ("null", "null", True),
        ("null", "https://null", False),
        ("example.com", "null", False),
        ("*", "null", True),
        ("*", "https://example.com", True),
        ("*", "no origin at all", True),
    ],
)
def test_an_entry_allows(entry: str, origin: str, expected: bool) -> None:
    assert allows(OriginCheck(Chat(), [entry]), origin, host="other.example") is expected
    assert allows(OriginCheck(Chat(), ["first.example", entry]), origin, host="other.example") is expected


@pytest.mark.parametrize("entry", ["https://example.com", "https://*.example.com", "example.com", "*.example.com"])
@pytest.mark.parametrize(
    "origin",
    [
        "https://example.com.evil.example",
        "https://a.example.com.evil.example",
        "https://evil.example/.example.com",
        "https://evil.example?.example.com",
        "https://evil.example#.example.com",
        "https://evil.example\\.example.com",
        "https://evil.example:443.example.com",
        "https://evil.example@a.example.com",
        "https://a.example.com@evil.example",
        "https://a.example.com:443@evil.example",
        "https://evil.example%2f.example.com",
        "https://evil.example .example.com",
        "https://evil.example\t.example.com",
        "https://.example.com",
        "https://example.com.",
        "https://a.example.com.",
        "https://exampleXcom",
        "https://a.exampleXcom",
        "https://notexample.com",
        "https://example.co",
        "https://example.comm",
        "https://*.example.com",
        "//a.example.com",
        "a.example.com",
        "https:a.example.com",
        "https:///a.example.com",
        "https://a.example.com/",
        "javascript://a.example.com%0aalert(1)",
        "https://a.example.com, https://evil.example",
        "https://a.example.com https://evil.example",
        "",
        "null",
        "undefined",
    ],
)
def test_tricks_with_the_ends_of_names(entry: str, origin: str) -> None:
    assert not allows(OriginCheck(Chat(), [entry]), origin, host="other.example")


def test_a_list_replaces_the_same_origin() -> None:
    assert not allows(OriginCheck(Chat(), ["https://a.example"]), "http://example.com", host="example.com")


@pytest.mark.parametrize(
    "entry",
    [
        "https://example.com/path",
        "https://example.com/",
        "*example.com",
        "exam*ple.com",
        "https://*",
        "https://",
        "http://",
        "",
        " ",
        "https://user@example.com",
        "https://example.com:",
        "https://example.com:0",
        "https://example.com:65536",
        "https://example.com?x",
        "https://exam ple.com",
        "https://bücher.example",
        "::1",
        None,
        5,
    ],
)
def test_an_invalid_entry_is_refused_when_it_is_listed(entry: Any) -> None:
    with pytest.raises(ConfigurationError):
        OriginCheck(Chat(), [entry])
    allowed = AllowedOrigins(["*"])
    with pytest.raises(ConfigurationError):
        allowed.append(entry)
    with pytest.raises(ConfigurationError):
        allowed[0] = entry
    with pytest.raises(ConfigurationError):
        allowed[:] = [entry]
    assert list(allowed) == ["*"]


def test_a_single_str_is_refused_with_the_list_to_write() -> None:
    with pytest.raises(ConfigurationError, match=r"\['https://example\.com'\]"):
        OriginCheck(Chat(), "https://example.com")
    check = OriginCheck(Chat())
    with pytest.raises(ConfigurationError):
        check.allowed_origins = "*"


# -- what else a peer may send -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "example.com",
        "http://",
        "http:///",
        "http://example.com/",
        "http://example.com/path",
        "http://user@example.com",
        "http://evil.example http://example.com",
        "http://evil.example\\@example.com",
        "http://example.com:",
        "http://example.com:0",
        "http://example.com:99999",
        "http://exam\u212aple.com",
        "http://.example.com",
        " http://example.com",
        "http://example.com\n",
        "NULL",
        "http://" + "a" * 2000,
    ],
)
def test_a_malformed_origin_is_refused(origin: str) -> None:
    assert parse_origin(origin) is None
    assert not allows(OriginCheck(Chat()), origin)
    assert not allows(OriginCheck(Chat(), ["null", "example.com", "*.example.com", "kple.com"]), origin)


def test_two_origins_are_refused() -> None:
    assert not allows(OriginCheck(Chat()), "http://example.com", "http://example.com")
    assert not allows(OriginCheck(Chat(), ["null"]), "null", "null")


def test_a_handshake_without_an_origin_passes_unless_one_is_required() -> None:
    assert allows(OriginCheck(Chat()))
    assert allows(OriginCheck(Chat(), ["https://a.example"]))
    assert not allows(OriginCheck(Chat(), require_origin=True))
    assert not allows(OriginCheck(Chat(), ["*"], require_origin=True))
    assert allows(OriginCheck(Chat(), ["*"], require_origin=True), "https://a.example")


def test_a_refusal_is_logged_in_one_line_with_what_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pywsapp"):
        assert not allows(OriginCheck(Chat()), "http://evil.example")
        assert not allows(OriginCheck(Chat(), ["https://a.example", "b.example"]), "evil\r\n\x85" + "x" * 5000)
    first, second = (record.getMessage() for record in caplog.records)
    assert "'http://evil.example'" in first
    assert "'example.com'" in first
    assert "https://a.example, b.example" in second
    assert len(second) < 500
    assert len(second.splitlines()) == 1


@given(st.text())
def test_parsing_an_origin_never_raises(text: str) -> None:
    found = parse_origin(text)
    assert found is None or isinstance(found, Origin)


@given(
    st.sampled_from(["http", "https", "ws", "capacitor"]),
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z0-9]{1,5}){0,3}", fullmatch=True),
    st.none() | st.integers(1, 65535),
)
def test_parsing_returns_the_parts_and_listing_an_origin_allows_it(scheme: str, host: str, port: int | None) -> None:
    text = f"{scheme}://{host}" + (f":{port}" if port else "")
    assert parse_origin(text) == (scheme, host, port or {"http": 80, "https": 443, "ws": 80}.get(scheme))
    assert parse_origin(text.upper()) == parse_origin(text)
    assert allows(OriginCheck(Chat(), [text]), text.upper(), host="other.example")


@given(st.text())
def test_any_origin_is_allowed_or_refused(origin: str) -> None:
    assert allows(OriginCheck(Chat()), origin) in (True, False), "and raises nothing else than a Refuse"
    if allows(OriginCheck(Chat(), ["example.com", "https://*.example.com:8443"]), origin):
        assert "example.com" in origin.lower()


# -- around other components -------------------------------------------------------------------------------------------


def test_a_class_makes_a_component_only_for_allowed_origins() -> None:
    made = []

    def make() -> Chat:
        made.append(Chat())
        return made[-1]

    check = OriginCheck(make)
    assert not allows(check, "http://evil.example")
    assert made == []
    answer = check.on_handshake(handshake("http://example.com"))
    assert isinstance(answer, Accept)
    assert [answer.component] == made


def test_an_invalid_component_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        OriginCheck(object())  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_an_async_on_handshake_is_awaited_after_the_check() -> None:
    class Slow(MessageComponent):
        async def on_handshake(self, request: Request) -> HandshakeAnswer:
            return "v2"

    slow = Slow()
    assert not allows(OriginCheck(slow), "http://evil.example")
    answer = OriginCheck(slow).on_handshake(handshake("http://example.com"))
    assert inspect.isawaitable(answer)
    assert await answer == Accept(component=slow, subprotocol="v2")


def test_plain_http_passes_unchecked() -> None:
    response = OriginCheck(Chat(), require_origin=True).on_request(handshake("http://evil.example"))
    assert isinstance(response, Response)
    assert response.body == b"a page"
