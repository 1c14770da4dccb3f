"""Types for TypeScript of the messages in an AsyncAPI document.

For each component with the title `Chat` there are `ChatToServer`, everything that a client sends, `ChatFromServer`,
everything that it gets, and, if it has procedures, `ChatProcedures`, with the parameters and the result of each. They
refer to one type for each message and for each class inside of messages.

A schema that TypeScript cannot express becomes the nearest type that includes it: `unknown` if there is nothing better.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pywsapp._schema.type_expressions import Context, Json, comment_of, declared, key_of, referenced, union

#: Names that the generated types use.
_RESERVED = frozenset(("Array", "ArrayBuffer", "Record", "Uint8Array"))
#: Text codecs; bytes are base64 in them.
_TEXT_CODECS = frozenset(("json",))


def types_of(document: Json) -> str:
    """Return the source of a TypeScript module with the types of all messages in an AsyncAPI document."""
    return _Module(document).source()


class _Module:
    """The types of a document.

    Args:
        document: an AsyncAPI document of `App.asyncapi`.
    """

    def __init__(self, document: Json) -> None:
        self._document = document
        components = document["components"]
        self._messages: Json = components.get("messages", {})
        self._schemas: Json = components.get("schemas", {})
        self._names: dict[tuple[str, str], str] = {}
        self._types: dict[str, str] = {}
        self._bytes = self._forms_of_bytes()

    def source(self) -> str:
        """Return the source."""
        info = self._document["info"]
        for name in self._schemas:
            self._name("schema", name, name)
        for name, message in self._messages.items():
            self._name_message(name, message)
        for name, schema in self._schemas.items():
            self._declare(self._names["schema", name], schema, self._bytes.get(name, {"string"}))
        for name, message in self._messages.items():
            payload = message["payload"]
            own = self._names["message", name]
            if "$ref" not in payload and own not in self._types:
                described = {**payload, "description": message.get("description", "")}
                self._declare(own, described, self._bytes[f"message {name}"])
        self._declare_channels()
        head = f"The messages of {info['title']} {info['version']}. `pywsapp types` has written this file."
        return "\n".join([f"// {' '.join(head.split())}\n", *self._types.values()])

    # -- names -------------------------------------------------------------------------------------------------------

    def _name(self, kind: str, key: str, wish: str) -> str:
        """Choose the name of a type: what the document says, changed if TypeScript or another type has it."""
        name = re.sub(r"[^A-Za-z0-9_]+", "_", wish).strip("_") or "Type"
        name = f"_{name}" if name[0].isdigit() else name[0].upper() + name[1:]  # no keyword begins with a capital
        taken = set(self._names.values()) | _RESERVED
        number, found = 1, name
        while found in taken:
            number += 1
            found = f"{name}{number}"
        self._names[kind, key] = found
        return found

    def _name_message(self, key: str, message: Json) -> None:
        """Choose the name of the type of a message: that of its schema, or of the same message in another codec."""
        reference = message["payload"].get("$ref")
        if reference is not None:
            self._names["message", key] = self._names["schema", reference.rpartition("/")[2]]
            return
        for other, known in self._messages.items():
            is_same = known["payload"] == message["payload"] and known["title"] == message["title"]
            if is_same and ("message", other) in self._names:
                self._names["message", key] = self._names["message", other]
                self._bytes[f"message {other}"] |= self._bytes[f"message {key}"]
                return
        self._name("message", key, message["title"])

    # -- channels ----------------------------------------------------------------------------------------------------

    def _declare_channels(self) -> None:
        """Add the types of all channels; channels of one component with the same messages share them."""
        found: dict[tuple[str, str, str, str], list[str]] = {}
        for key, channel in self._document["channels"].items():
            contents = (channel.get("title") or key, *self._contents(f"#/channels/{key}"))
            found.setdefault(contents, []).append(channel["address"])
        for (title, to_server, from_server, procedures), paths in found.items():
            where = ", ".join(paths)
            name = self._name("channel", f"to {where}", f"{title}ToServer")
            self._types[name] = declared(name, to_server or "never", f"What a client sends to {where}.")
            name = self._name("channel", f"from {where}", f"{title}FromServer")
            # A component can send what it does not declare.
            self._types[name] = declared(name, from_server or "unknown", f"What a client gets from {where}.")
            if procedures:
                name = self._name("channel", f"procedures {where}", f"{title}Procedures")
                comment = comment_of(f"The procedures of {where}: their parameters and results.")
                self._types[name] = f"{comment}export interface {name} {{\n{procedures}}}\n"

    def _contents(self, channel: str) -> tuple[str, str, str]:
        """Return what clients send and get on a channel, and the procedures."""
        to_server: list[str] = []
        from_server: list[str] = []
        procedures: list[str] = []
        for operation in self._document["operations"].values():
            if operation["channel"]["$ref"] != channel:
                continue
            names = self._references(operation["messages"])
            (to_server if operation["action"] == "receive" else from_server).extend(names)
            if "reply" in operation:
                from_server += self._references(operation["reply"]["messages"])
                procedures.append(self._procedure(operation))
        return union(to_server), union(from_server), "".join(procedures)

    def _references(self, references: Iterable[Json]) -> list[str]:
        return [self._names["message", reference["$ref"].rpartition("/")[2]] for reference in references]

    def _procedure(self, operation: Json) -> str:
        key = operation["messages"][0]["$ref"].rpartition("/")[2]
        reply = operation["reply"]["messages"][0]["$ref"].rpartition("/")[2]
        call, result = self._messages[key], self._messages[reply]["payload"]["properties"]["result"]
        params = self._context(self._bytes[f"message {key}"]).expression(call["payload"]["properties"]["params"])
        returned = self._context(self._bytes[f"message {reply}"]).expression(result)
        comment = comment_of(call.get("description", ""), "  ")
        name = call["payload"]["properties"]["method"]["const"]
        return f"{comment}  {key_of(name)}: {{ params: {params}; result: {returned} }};\n"

    def _context(self, forms: set[str]) -> Context:
        names = {name: found for (kind, name), found in self._names.items() if kind == "schema"}
        return Context(names, union(sorted(forms)) or "string")

    def _declare(self, name: str, schema: Json, forms: set[str]) -> None:
        self._types[name] = self._context(forms).declaration(name, schema)

    # -- bytes -------------------------------------------------------------------------------------------------------

    def _forms_of_bytes(self) -> dict[str, set[str]]:
        """Return what bytes are in each schema and each message: base64 text, or binary data, or either."""
        forms: dict[str, set[str]] = {f"message {name}": set() for name in self._messages}
        for channel in self._document["channels"].values():
            codecs = channel.get("x-codecs", ["json"])
            own = {"string" if codec in _TEXT_CODECS else "Uint8Array" for codec in codecs}
            for reference in channel["messages"].values():
                name = reference["$ref"].rpartition("/")[2]
                message = self._messages[name]
                if message.get("contentType") == "application/octet-stream":
                    forms[f"message {name}"] = {"ArrayBuffer"}
                    continue
                forms[f"message {name}"] |= own
                seen: set[str] = set()
                waiting = referenced(message["payload"])
                while waiting:
                    schema = waiting.pop()
                    if schema not in seen:
                        seen.add(schema)
                        forms.setdefault(schema, set()).update(own)
                        waiting |= referenced(self._schemas[schema])
        return forms
