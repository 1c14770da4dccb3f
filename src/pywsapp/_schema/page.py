"""A page that shows an AsyncAPI document: one file without scripts, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from pywsapp._schema.examples import example_of
from pywsapp._schema.type_expressions import Context, Json

_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: Header fields of the page: nothing but its own style is allowed.
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[\w.-]+')
#: Keywords that are shown below the type of a value, with their names for readers.
_LIMITS = {
    "default": "default",
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "multipleOf": "multiple of",
    "minLength": "min. length",
    "maxLength": "max. length",
    "minItems": "min. items",
    "maxItems": "max. items",
    "pattern": "pattern",
    "format": "format",
}


def page_of(document: Json, links: dict[str, str]) -> str:
    """Return the HTML of an AsyncAPI document.

    Args:
        document: a document of `App.asyncapi`.
        links: files to download, by their names.
    """
    return _Page(document).html(links)


class _Page:
    def __init__(self, document: Json) -> None:
        self._document = document
        components = document["components"]
        self._messages: Json = components.get("messages", {})
        self._schemas: Json = components.get("schemas", {})
        self._context = Context({name: name for name in self._schemas}, "bytes")
        self._shown: set[str] = set()  # types and messages whose fields are on the page already

    def html(self, links: dict[str, str]) -> str:
        info = self._document["info"]
        channels = [(name, channel) for name, channel in self._document["channels"].items()]
        menu = "".join(
            f'<li><a href="#channel-{escape(name)}"><code>{escape(channel["address"])}</code></a></li>'
            for name, channel in channels
        )
        types = "".join(f'<li><a href="#type-{escape(name)}">{escape(name)}</a></li>' for name in self._schemas)
        downloads = "".join(f'<a href="{escape(href)}" download>{escape(name)}</a>' for name, href in links.items())
        parts = [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>',
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>',
            '<body><div class="page"><header>',
            f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
            f"<p>{escape(info['description'])}</p>" if "description" in info else "",
            *[
                f"<p><code>{escape(_url_of(server))}</code></p>"
                for server in self._document.get("servers", {}).values()
            ],
            f'<p class="downloads">{downloads}</p></header>',
            f'<nav aria-label="Contents"><h2>Channels</h2><ul>{menu}</ul>',
            f'<div class="only-wide"><h2>Types</h2><ul>{types}</ul></div>' if types else "",
            "</nav><main>",
            *[self._channel(name, channel) for name, channel in channels],
            self._types(),
            "</main></div></body></html>\n",
        ]
        return "\n".join(filter(None, parts))

    # -- channels ----------------------------------------------------------------------------------------------------

    def _channel(self, name: str, channel: Json) -> str:
        reference = f"#/channels/{name}"
        operations = [one for one in self._document["operations"].values() if one["channel"]["$ref"] == reference]
        title = channel.get("title", "")
        parts = [
            f'<section id="channel-{escape(name)}"><h2><code>{escape(channel["address"])}</code>',
            f"<small>{escape(title)}</small></h2>",
            f"<p>{escape(channel['description'])}</p>" if "description" in channel else "",
            self._facts(channel, operations),
        ]
        for action, css, heading in (("receive", "in", "The client sends"), ("send", "out", "The server sends")):
            found = [one for one in operations if one["action"] == action and "reply" not in one]
            if found:
                parts.append(f'<h3 class="{css}">{heading}</h3>')
                parts += [self._message(message) for one in found for message in self._referenced(one["messages"])]
        procedures = [one for one in operations if "reply" in one]
        if procedures:
            parts.append('<h3 class="call">Procedures</h3>')
            parts += map(self._procedure, procedures)
        return "".join([*parts, "</section>"])

    def _facts(self, channel: Json, operations: list[Json]) -> str:
        facts: list[tuple[str, str]] = []
        for parameter, found in channel.get("parameters", {}).items():
            facts.append((f"{{{parameter}}}", escape(found["description"])))
        fields = channel["bindings"]["ws"].get("headers", {}).get("properties", {})
        names = {"Host": "Host", "Sec-WebSocket-Protocol": "Subprotocols"}
        facts += [(names[field], _codes(found["enum"])) for field, found in fields.items()]
        if "x-codecs" in channel:
            facts.append(("Codecs", _codes(channel["x-codecs"])))
        schemes = self._document["components"].get("securitySchemes", {})
        references = operations[0].get("security", ()) if operations else ()
        if references:
            ways = [_scheme_text(schemes[reference["$ref"].rpartition("/")[2]]) for reference in references]
            facts.append(("Authentication", "<br>or: ".join(map(escape, ways))))
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{text}</dd>" for name, text in facts)
        return f"<dl>{rows}</dl>" if rows else ""

    def _referenced(self, references: Iterable[Json]) -> list[Json]:
        return [self._messages[reference["$ref"].rpartition("/")[2]] for reference in references]

    def _message(self, message: Json) -> str:
        """Return a message with its fields; with a link to them if the page has them already."""
        kind = message["payload"].get("$ref", "").rpartition("/")[2]
        place = f"type-{kind}" if kind else f"message-{message['title']}"
        description, payload = message.get("description", ""), message["payload"]
        if place in self._shown:
            link = f'<h4><a href="#{escape(place)}">{escape(kind or message["title"])}</a></h4>'
            return self._card(link, description, "")
        self._shown.add(place)
        table = self._table(self._schemas[kind] if kind else payload)
        return self._card(
            f"<h4>{escape(kind or message['title'])}</h4>", description, table + self._example(payload), place
        )

    def _procedure(self, operation: Json) -> str:
        call = self._referenced(operation["messages"])[0]
        reply = self._referenced(operation["reply"]["messages"])[0]
        params, result = call["payload"]["properties"]["params"], reply["payload"]["properties"]["result"]
        head = f"<h4>{escape(operation['title'])}</h4> <span>&rarr;</span> {self._type(result)}"
        table = self._table(params) if params["properties"] else ""
        return self._card(head, operation.get("description", ""), table + self._example(call["payload"]))

    def _card(self, head: str, description: str, content: str, place: str = "") -> str:
        text = f" <span>{escape(description)}</span>" if description else ""
        anchor = f' id="{escape(place)}"' if place else ""
        return f"<article{anchor}><header>{head}{text}</header>{content}</article>"

    def _example(self, payload: Json) -> str:
        if payload.get("type") == "string":  # text or bytes
            return ""
        example = json.dumps(example_of(payload, self._schemas), indent=2, ensure_ascii=False)
        return f"<details><summary>Example</summary><pre>{escape(example)}</pre></details>"

    # -- types -------------------------------------------------------------------------------------------------------

    def _types(self) -> str:
        """Return the types that are only inside of messages."""
        cards = [
            self._card(f"<h4>{escape(name)}</h4>", schema.get("description", ""), self._table(schema), f"type-{name}")
            for name, schema in self._schemas.items()
            if f"type-{name}" not in self._shown
        ]
        return f'<section id="types"><h2>Other types</h2>{"".join(cards)}</section>' if cards else ""

    def _table(self, schema: Json) -> str:
        """Return the properties of an object as a table, and the type of anything else."""
        if not schema.get("properties"):
            return f"<p>{self._type(schema)}{_limits(schema)}</p>"
        required, properties = schema.get("required", ()), schema["properties"]
        has_texts = any(map(_text_of, properties.values()))
        rows = "".join(self._row(name, part, name in required, has_texts) for name, part in properties.items())
        last = "<th>Description</th>" if has_texts else ""
        head = f"<thead><tr><th>Name</th><th>Type</th>{last}</tr></thead>"
        return f"<div><table>{head}<tbody>{rows}</tbody></table></div>"

    def _row(self, name: str, schema: Any, is_required: bool, has_texts: bool) -> str:
        optional = "" if is_required else ' <span class="optional">optional</span>'
        last = f"<td>{escape(_text_of(schema))}</td>" if has_texts else ""
        kind = f"{self._type(schema)}{_limits(schema)}"
        return f"<tr><td><code>{escape(name)}</code>{optional}</td><td>{kind}</td>{last}</tr>"

    def _type(self, schema: Any) -> str:
        """Return a type as code, in which the named types are links."""
        text, parts, end = self._context.expression(schema), [], 0
        for found in _WORD.finditer(text):
            word = found[0]
            shown = f'<a href="#type-{escape(word)}">{escape(word)}</a>' if word in self._schemas else escape(word)
            parts += [escape(text[end : found.start()]), shown]
            end = found.end()
        return f"<code>{''.join(parts)}{escape(text[end:])}</code>"


def _limits(schema: Any) -> str:
    if not isinstance(schema, dict):
        return ""
    found = [
        f"{text}: <code>{escape(json.dumps(schema[keyword], ensure_ascii=False))}</code>"
        for keyword, text in _LIMITS.items()
        if keyword in schema
    ]
    return f"<small>{', '.join(found)}</small>" if found else ""


def _scheme_text(scheme: Json) -> str:
    """Return how a client authenticates."""
    place = "URL parameter" if scheme.get("in") == "query" else "header field"
    text: str = scheme.get("description") or f"A token in the {place} {scheme['name']}."
    return text


def _codes(values: Iterable[str]) -> str:
    return ", ".join(f"<code>{escape(value)}</code>" for value in values)


def _text_of(schema: Any) -> str:
    return schema.get("description", "") if isinstance(schema, dict) else ""


def _url_of(server: Json) -> str:
    return f"{server['protocol']}://{server['host']}{server.get('pathname', '')}"
