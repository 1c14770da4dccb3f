"""The AsyncAPI document of an App: channels, operations, messages and schemas.

A channel is a route, and an operation is what the server does: it receives messages of clients, sends messages to them,
and answers calls. https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from pywsapp._schema.messages import Call, Message, calls, received, received_kinds, sent, sent_kinds
from pywsapp._schema.routes import DocumentedRoute, routes_of
from pywsapp._schema.schemas import PREFIX, Schemas, first_paragraph
from pywsapp._schema.security import security_of
from pywsapp.exceptions import ConfigurationError
from pywsapp.routing.router import Router

Json = dict[str, Any]
_CONTENT_TYPES = {
    "json": "application/json",
    "msgpack": "application/msgpack",
    "cbor": "application/cbor",
    "protobuf": "application/x-protobuf",
}
_RAW_TYPES: dict[type, str] = {str: "text/plain", bytes: "application/octet-stream"}
_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
_PARAMETER_TYPES = {
    "int": "An integer.",
    "float": "A number.",
    "uuid": "A UUID.",
    "path": "The rest of the path; it can have slashes.",
}


def document_of(router: Router, title: str, version: str, description: str | None, url: str | None) -> Json:
    """Return the AsyncAPI document of a router; see `App.asyncapi`."""
    routes = list(routes_of(router))
    schemas = Schemas(
        [kind for route in routes for kind in received_kinds(route)],
        [kind for route in routes for kind in sent_kinds(route)],
    )
    return _Document(schemas).of(routes, _info(title, version, description), _server(url))


def _info(title: str, version: str, description: str | None) -> Json:
    for name, value in {"title": title, "version": version}.items():
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{name} must be a text, not {value!r}")
    return {"title": title, "version": version, **({} if description is None else {"description": description})}


def _server(url: str | None) -> Json | None:
    """Return the server of a URL.

    Raises:
        ConfigurationError: the URL is not one of WebSockets.
    """
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.netloc or parts.username is not None:
        raise ConfigurationError(f"url must be that of the server, such as 'wss://chat.example', not {url!r}")
    path = parts.path.rstrip("/")
    return {"host": parts.netloc, "protocol": parts.scheme, **({"pathname": path} if path else {})}


class _Document:
    """Makes a document.

    Args:
        schemas: the schemas of all types.
    """

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._messages: dict[str, Json] = {}
        self._schemes: dict[str, Json] = {}
        self._operations: dict[str, Json] = {}

    def of(self, routes: list[DocumentedRoute], info: Json, server: Json | None) -> Json:
        """Return the document of routes."""
        channels: Json = {}
        for route in routes:
            channel = _free("_".join(re.findall(r"\w+", _PARAMETER.sub(r"\1", route.path))) or "root", channels)
            channels[channel] = self._channel(channel, route)
        components: Json = {
            "messages": dict(sorted(self._messages.items())),
            "schemas": self._schemas.named,
            "securitySchemes": dict(sorted(self._schemes.items())),
        }
        return {
            "asyncapi": "3.0.0",
            "info": info,
            "defaultContentType": "application/json",
            **({} if server is None else {"servers": {"server": server}}),
            "channels": channels,
            "operations": self._operations,
            "components": {name: part for name, part in components.items() if part},
        }

    def _channel(self, channel: str, route: DocumentedRoute) -> Json:
        """Return the channel of a route, and add its operations."""
        kind = route.component
        found: Json = {"address": _PARAMETER.sub(r"{\1}", route.path)}
        if kind is not None:
            found["title"] = kind.__name__
            if description := first_paragraph(vars(kind).get("__doc__")):
                found["description"] = description
        if parameters := _parameters(route.path):
            found["parameters"] = parameters
        messages: Json = {}
        security = security_of(route.guard)
        self._schemes |= security
        common: Json = {"channel": {"$ref": f"#/channels/{channel}"}}
        if security:
            common["security"] = [{"$ref": f"#/components/securitySchemes/{name}"} for name in security]
        for action, group in (("receive", received(route, self._schemas)), ("send", sent(route, self._schemas))):
            if group:
                references = [self._reference(message, route, channel, messages) for message in group]
                self._operations[f"{channel}_{action}"] = {"action": action, **common, "messages": references}
        for call in calls(route, self._schemas):
            key = _free(f"{channel}_call_{re.sub(r'[^A-Za-z0-9_]', '_', call.name)}", self._operations)
            self._operations[key] = self._procedure(call, route, channel, messages, common)
        found["messages"] = dict(sorted(messages.items()))
        found["bindings"] = {"ws": _binding(route)}
        if route.codecs:
            found["x-codecs"] = [codec.name for codec in route.codecs]
        return found

    def _procedure(self, call: Call, route: DocumentedRoute, channel: str, messages: Json, common: Json) -> Json:
        request = self._reference(call.request, route, channel, messages)
        replies = [self._reference(message, route, channel, messages) for message in call.replies]
        return {
            "action": "receive",
            "title": call.name,
            **({"description": call.description} if call.description else {}),
            **common,
            "messages": [request],
            "reply": {"channel": common["channel"], "messages": replies},
        }

    def _reference(self, message: Message, route: DocumentedRoute, channel: str, messages: Json) -> Json:
        """Add a message to the document, and return the reference to it."""
        name = self._add(message, route)
        messages[name] = {"$ref": f"#/components/messages/{name}"}
        return {"$ref": f"#/channels/{channel}/messages/{name}"}

    def _add(self, message: Message, route: DocumentedRoute) -> str:
        """Add a message, and return its name in the document: with the codec in it, if that is not JSON."""
        codec = route.codecs[0].name if route.codecs and message.raw is None else "json"
        found: Json = {"name": message.tag or message.name, "title": message.name}
        if message.description:
            found["description"] = message.description
        if message.raw is not None:
            found["contentType"] = _RAW_TYPES[message.raw]
        elif codec != "json":
            found["contentType"] = _CONTENT_TYPES.get(codec, f"application/x-{codec}")
        if message.is_call:
            found["correlationId"] = {"location": "$message.payload#/id"}
        found["payload"] = message.payload
        number, title, suffix = 1, message.name, "" if codec == "json" else f"_{codec}"
        while self._is_taken(title + suffix, title, found):
            number += 1
            title = found["title"] = f"{message.name}{number}"
        self._messages[title + suffix] = found
        return title + suffix

    def _is_taken(self, name: str, title: str, message: Json) -> bool:
        """Return whether another message, or the schema of something else, has a name."""
        if self._messages.get(name, message) != message:
            return True
        return title in self._schemas.named and message["payload"] != {"$ref": PREFIX + title}


def _free(name: str, taken: Json) -> str:
    """Return a name that is not taken: the name itself, or with a number after it."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}{number}"
    return found


def _parameters(path: str) -> Json:
    return {name: {"description": _PARAMETER_TYPES.get(kind, "A text.")} for name, kind in _PARAMETER.findall(path)}


def _binding(route: DocumentedRoute) -> Json:
    """Return what the handshake needs: the host and the subprotocols of a route."""
    fields: Json = {}
    if route.host is not None and route.host != "*":
        fields["Host"] = {"type": "string", "enum": route.host.split(", ")}
    if route.subprotocols:
        fields["Sec-WebSocket-Protocol"] = {"type": "string", "enum": list(route.subprotocols)}
    binding: Json = {"method": "GET", "bindingVersion": "0.1.0"}
    return {**binding, "headers": {"type": "object", "properties": fields}} if fields else binding
