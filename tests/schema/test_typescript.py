"""Types for TypeScript: each schema, names, and what the compiler says of right and wrong programs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.documented import Board, documented
from support.node_packages import node_packages

from pywsapp import App, MessageComponent
from pywsapp._schema.type_expressions import Context
from pywsapp._schema.typescript import types_of
from pywsapp.codecs import MessagePackCodec

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]  # the compiler takes a second of one processor

#: Schemas, and their types.
TABLE: list[tuple[Any, str]] = [
    ({}, "unknown"),
    (True, "unknown"),
    (False, "never"),
    ({"type": "string"}, "string"),
    ({"type": "string", "format": "date-time"}, "string"),
    ({"type": "string", "contentEncoding": "base64"}, "Uint8Array"),
    ({"type": "string", "format": "binary"}, "Uint8Array"),
    ({"type": "integer"}, "number"),
    ({"type": "number", "minimum": 1}, "number"),
    ({"type": "boolean"}, "boolean"),
    ({"type": "null"}, "null"),
    ({"type": ["integer", "number", "null"]}, "number | null"),
    ({"type": "unheard-of"}, "unknown"),
    ({"const": 'a "quoted" text'}, '"a \\"quoted\\" text"'),
    ({"enum": ["a", 1, True, None]}, '"a" | 1 | true | null'),
    ({"enum": [["a"]]}, "unknown"),
    ({"enum": []}, "never"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}, "string | null"),
    ({"oneOf": [{"type": "string"}, {"type": "string"}]}, "string"),
    ({"allOf": [{"$ref": "#/components/schemas/Point"}], "default": {}}, "Point"),
    ({"allOf": [{"enum": [1, 2]}, {"type": "number"}]}, "(1 | 2) & number"),
    ({"type": "array"}, "Array<unknown>"),
    ({"type": "array", "items": {"type": ["string", "null"]}}, "Array<string | null>"),
    (
        {"type": "array", "items": [{"type": "string"}, {"type": "integer"}], "minItems": 1, "additionalItems": False},
        "[string, (number)?]",
    ),
    ({"type": "array", "items": [{"type": "string"}], "minItems": 1}, "[string, ...Array<unknown>]"),
    ({"type": "object"}, "Record<string, unknown>"),
    ({"type": "object", "additionalProperties": False}, "Record<string, never>"),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, "Record<string, number>"),
    ({"type": "object", "properties": {"a-b": {}, "c": {"const": 1}}, "required": ["c"]}, '{ "a-b"?: unknown; c: 1 }'),
    (
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True},
        "{ a?: string; [other: string]: unknown }",
    ),
]
CONTEXT = Context({"Point": "Point"}, "Uint8Array")

RIGHT = """
import type { BoardProcedures, BoardToServer, ChatFromServer, ChatToServer, Say, TickerFromServer } from "./types";

const join: ChatToServer = { type: "join", room: "lobby", color: "red" };
const say: ChatToServer = { type: "say", text: "hello", tree: { name: "a", children: [{ name: "b" }] } };
const login: BoardToServer = { type: "login", theName: "Ann", parent: { type: "login", theName: "Bo" } };
const free: BoardToServer = { type: "free", whatever: 1 };
const call: BoardToServer = { id: 1, method: "add", params: { a: 1 } };

export function text(message: ChatFromServer): string {
  switch (message.type) {
    case "joined": return `${message.name} ${message.color.length} ${message.note?.length}`;
    case "say": return message.text;
    case "error": return message.code;
  }
}
declare function ask<N extends keyof BoardProcedures>(
  name: N, params: BoardProcedures[N]["params"],
): Promise<BoardProcedures[N]["result"]>;
export async function total(): Promise<number> {
  const points = await ask("board.find", { near: { x: 1 } });
  await ask("clear", {});
  return points.reduce((sum, { x }) => sum + x, await ask("add", { a: 1, b: 2 }));
}
export const inJson: Say["data"] = "aGVsbG8=", inMessagePack: Say["data"] = new Uint8Array(2);
export const tick: TickerFromServer = "text";
console.log(join, say, login, free, call);
"""
#: Statements that must not compile.
WRONG = [
    'const a: ChatToServer = { type: "join" };',
    'const a: ChatToServer = { type: "leave" };',
    'const a: ChatToServer = { type: "join", room: "lobby", color: "green" };',
    'const a: ChatToServer = { type: "say", text: 1 };',
    'const a: ChatToServer = { type: "say", text: "a", pair: ["a", 1] };',
    'const a: BoardToServer = { id: 1, method: "add", params: {} };',
    'const a: BoardToServer = { id: 1, method: "subtract", params: {} };',
    'const a: BoardProcedures["add"]["result"] = "3";',
    "const a: TickerToServer = new ArrayBuffer(1);",
]


PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "document-messages.md"


def first_block(language: str) -> str:
    """Return the first program of a language on the page for users."""
    return PAGE.read_text(encoding="utf-8").partition(f"\n```{language}\n")[2].partition("\n```\n")[0]


def messages_of_the_page() -> str:
    names: dict[str, Any] = {"__name__": "docs"}
    exec(first_block("python"), names)
    return types_of(names["app"].asyncapi())


@pytest.fixture(scope="module")
def types() -> str:
    return types_of(documented().asyncapi(title="Test", version="2"))


@pytest.mark.parametrize(("schema", "expected"), TABLE)
def test_type_of_a_schema(schema: Any, expected: str) -> None:
    assert CONTEXT.expression(schema) == expected


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def test_deep_schemas_are_cut_off() -> None:
    assert CONTEXT.expression(deep(1000)).count("Array") < 50


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
schemas = st.recursive(
    st.sampled_from([{}, True, False, {"type": "string"}, {"type": ["integer", "null"]}, {"$ref": "#/x/Point"}])
    | json_values.map(lambda value: {"const": value}),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(st.text(), inner)})
        | st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner})
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner | st.lists(inner)})
        | st.sampled_from(["anyOf", "oneOf", "allOf"]).flatmap(
            lambda keyword: st.fixed_dictionaries({keyword: st.lists(inner, min_size=1)})
        )
    ),
)


@settings(max_examples=30)
@given(schemas, st.text())
def test_every_schema_has_a_type_and_no_text_escapes(schema: Any, description: str) -> None:
    found = CONTEXT.declaration("X", {"type": "object", "properties": {"a": schema}, "description": description})
    code = re.sub(r'"(?:[^"\\]|\\.)*"', "''", re.sub(r"/\*.*?\*/", "", found))
    assert re.fullmatch(r"[\w\s{}\[\]()<>;:.,?|&'-]+", code), code
    for opening, closing in ("{}", "[]", "()", "<>"):
        assert code.count(opening) == code.count(closing)


# -- modules -----------------------------------------------------------------------------------------------------------


def test_declarations(types: str) -> None:
    assert types.startswith("// The messages of Test 2.")
    assert (
        "/** Enter a room. */\n"
        "export interface Join {\n"
        '  type: "join";\n'
        "  /** The name of the room. */\n"
        "  room: string;\n"
        "  color?: Color;\n"
        "}\n"
    ) in types
    assert 'export type Color = "blue" | "red";\n' in types
    assert "  data?: Uint8Array | string;\n" in types, "a route has JSON and MessagePack"
    assert "  children?: Array<Branch>;\n" in types
    assert "  pair?: [number, string];\n" in types
    assert "/** Who you are. *\\/ alert(1) /* */" in types


def test_unions_are_seen_from_the_client(types: str) -> None:
    assert "/** What a client sends to /chat, /made. */\nexport type ChatToServer = Join | Say;\n" in types
    assert "export type ChatFromServer = Joined | Say | ErrorMessage;\n" in types
    assert "export type EchoServerFromServer = unknown;\n" in types
    assert "export type EchoServerToServer = Text | Binary;\n" in types
    assert '  "board.find": { params: { near: Point; user?: Login | null }; result: Array<Point> };\n' in types
    assert "  /** Add two numbers. */\n  add: { params: { a: number; b?: number }; result: number };\n" in types


def test_routes_of_one_component_share_their_types() -> None:
    app = App(port=0)
    app.route("/a", Board())
    app.route("/b/{name}", Board(), codec=MessagePackCodec())
    types = types_of(app.asyncapi())
    assert "/** What a client sends to /a, /b/{name}. */\n" in types
    assert re.findall(r"export \w+ (Board\w+)", types) == [
        "BoardFindCall",
        "BoardFindReply",
        "BoardToServer",
        "BoardFromServer",
        "BoardProcedures",
    ]


def test_names_are_those_of_the_language() -> None:
    kinds = [msgspec.defstruct(name, [("x", bytes)], tag=True) for name in ("string", "Record", "Array", "Grüße", "_x")]

    class Component(MessageComponent):
        sends = kinds

    app = App(port=0)
    app.route("/", Component(), codec=MessagePackCodec())
    types = types_of(app.asyncapi())
    assert re.findall(r"export interface (\S+)", types) == ["Array2", "Gr__e", "Record2", "X", "String"]
    assert types.count("  x: Uint8Array;\n") == 5


def test_the_compiler_accepts_right_programs_and_no_wrong_ones(types: str, tmp_path: Path) -> None:
    _, modules = node_packages()
    names = "import type { BoardProcedures, BoardToServer, ChatToServer, TickerToServer } from './types';\n"
    wrong = "".join(f"{{\n  // @ts-expect-error\n  {statement}\n}}\n" for statement in WRONG)
    table = "interface Point { x: number }\n" + "".join(
        f"export type T{number} = {expected};\n" for number, (_, expected) in enumerate(TABLE)
    )
    files = {"types.ts": types, "right.ts": RIGHT, "wrong.ts": names + wrong, "table.ts": table}
    files |= {"messages.ts": messages_of_the_page(), "page.ts": first_block("ts")}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    options = ["--strict", "--noEmit", "--target", "es2022", "--exactOptionalPropertyTypes", "--noImplicitReturns"]
    command = [str(modules / ".bin" / "tsc"), *options, *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=170)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
