"""The page that shows the messages of an App."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from support.app_client import response_to
from support.documented import documented, plain
from support.serving import serving

from pywsapp import App, ConfigurationError, MessageComponent
from pywsapp._schema.examples import example_of
from pywsapp._schema.page import HEADERS, page_of
from pywsapp._schema.typescript import types_of
from pywsapp.auth import public

pytestmark = [pytest.mark.anyio, pytest.mark.once]
VOID = {"br", "meta"}


class Parsed(HTMLParser):
    """The elements of a page.

    Attributes:
        ids: the ids, in order.
        links: where links lead.
        tags: the names of all elements.
        text: all text.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self._open.append(tag)
        found = dict(attrs)
        assert not any(name.startswith("on") or name == "style" for name in found), "the policy does not allow it"
        self.ids += [str(found["id"])] if "id" in found else []
        self.links += [str(found["href"])] if "href" in found else []

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return documented().asyncapi(title="A <i>title</i>", description='"<script>"', url="wss://chat.example/ws")


def test_the_page_is_well_formed_and_links_lead_somewhere(document: dict[str, Any]) -> None:
    parsed = Parsed(page_of(document, {"JSON": "docs/asyncapi.json"}))
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= set(parsed.ids)
    assert [link for link in parsed.links if not link.startswith("#")] == ["docs/asyncapi.json"]


def test_texts_are_escaped(document: dict[str, Any]) -> None:
    parsed = Parsed(page_of(document, {'"<b>"': '"><img>'}))
    assert parsed.tags & {"b", "i", "img", "script"} == set()
    for text in ("A <i>title</i>", '"<script>"', "The <b>name</b>.", '"<b>"'):
        assert text in parsed.text


def test_the_page_shows_what_a_client_needs(document: dict[str, Any]) -> None:
    text = Parsed(page_of(document, {})).text
    for part in (
        "wss://chat.example/ws",
        "/boards/{id}",
        "A chat with rooms.",
        "board.find → Array<Point>",
        "An integer.",
        'The subprotocols "bearer" and "bearer.<token>", for browsers.',
        "A token in the URL parameter t.",
        "Enter a room.",
        "max. length: 32",
        '"blue" | "red"',
        "json, msgpack",
        '"room": "text"',
    ):
        assert part in text


def test_the_policy_allows_the_style_alone(document: dict[str, Any]) -> None:
    [style] = re.findall(r"<style>(.*?)</style>", page_of(document, {}), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert HEADERS["Content-Security-Policy"].startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "url(" not in style
    assert "@import" not in style


def test_an_app_without_messages_has_a_page() -> None:
    Parsed(page_of(App(port=0).asyncapi(), {}))
    Parsed(page_of(plain().asyncapi(), {}))


def test_examples_of_recursive_types_end() -> None:
    schemas = {"A": {"type": "object", "properties": {"a": {"$ref": "#/x/A"}}, "required": ["a"]}}
    assert json.dumps(example_of({"$ref": "#/x/A"}, schemas)).count("{") < 10


# -- over HTTP ---------------------------------------------------------------------------------------------------------


async def get(app: App, path: str) -> Any:
    return await response_to(app, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


async def test_the_page_and_its_files() -> None:
    app = documented()
    app.asyncapi_page("/docs", title="Test", version="2", authenticate=public)
    async with serving(app):
        page = await get(app, "/docs")
        found = await get(app, "/docs/asyncapi.json")
        types = await get(app, "/docs/messages.ts")
    assert page.status == 200
    assert page.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    files = [link for link in Parsed(page.body.decode()).links if not link.startswith("#")]
    assert files == ["docs/asyncapi.json", "docs/messages.ts"]
    assert found.headers["content-type"] == "application/json"
    assert json.loads(found.body) == app.asyncapi(title="Test", version="2")
    assert types.body.decode() == types_of(app.asyncapi(title="Test", version="2"))


@pytest.mark.parametrize(("path", "file"), [("/", "/asyncapi.json"), ("/a/docs/", "/a/docs/asyncapi.json")])
async def test_the_page_of_a_path_with_a_slash_at_its_end(path: str, file: str) -> None:
    app = plain()
    app.asyncapi_page(path)
    async with serving(app):
        assert "asyncapi.json" in Parsed((await get(app, path)).body.decode()).links
        assert (await get(app, file)).status == 200


async def test_the_guard_of_the_app_guards_the_page() -> None:
    app = documented()
    app.asyncapi_page()
    async with serving(app):
        for path in ("/docs", "/docs/asyncapi.json", "/docs/messages.ts"):
            assert (await get(app, path)).status == 401


async def test_a_message_without_a_schema_ends_the_start() -> None:
    class Component(MessageComponent):
        sends = (msgspec.defstruct("Strange", [("number", complex)]),)

    app = App(port=0)
    app.route("/", Component())
    app.asyncapi_page("/docs")
    with pytest.raises(ConfigurationError, match="Strange has no JSON Schema"):
        await app.serve()


def test_a_path_with_parameters() -> None:
    with pytest.raises(ConfigurationError, match="the path of a page with a document has no parameters"):
        App(port=0).asyncapi_page("/docs/{name}")


def test_an_argument_that_does_not_exist() -> None:
    with pytest.raises(TypeError, match="name"):
        App(port=0).asyncapi_page("/docs", name="Chat")
