"""The files of the browser client: their tests in Node.js, types, size, npm package and reference."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.node_packages import node_packages, node_program
from support.services import free_port

import pywsapp

ROOT = Path(__file__).parent.parent.parent
CLIENT = ROOT / "src" / "pywsapp" / "browser"
REFERENCE = ROOT / "docs" / "reference" / "browser-client.md"
GUIDE = ROOT / "docs" / "howto" / "use-topics-in-a-browser.md"
TESTS = Path(__file__).parent
SECONDS = 150  # for one program of Node.js
MAX_SIZE = 8 * 1024  # bytes of pywsapp.js, compressed

pytestmark = [pytest.mark.once, pytest.mark.timeout(200)]  # the compiler takes a second of one processor

#: A program that must compile, also without the types of a DOM for what it makes itself.
RIGHT = """
import { connect, PywsappError, type Client, type Message, type State } from "./pywsapp.js";
import { useClient, useClientState, useTopic } from "./pywsapp-react.js";

const client: Client = connect("/live", { token: async () => "token", maxQueue: 10 });
const states: State[] = [];
const remove: () => void = client.on("state", (state) => states.push(state));
const options = { since: null, presence: true };
const room = client.subscribe<string>("room:tea", options, ({ data }) => console.log(data.length));
room.on("presence", ({ joined, left }) => console.log([...joined.keys(), ...left]));
room.on("lost", (position) => console.log(position?.length, room.present.size));
client.subscribe("room:milk", (message: Message) => console.log(message.position));
export async function read(): Promise<number> {
  for await (const { data } of client.subscribe<{ text: string }>("room:coffee")) console.log(data.text);
  await client.publish("room:tea", "hello", { timeout: 5_000 });
  try {
    return await client.call<number>("count", { room: "tea" });
  } catch (error) {
    if (error instanceof PywsappError && error.retryAfter !== undefined) return error.retryAfter;
    throw error;
  } finally {
    remove();
  }
}
export function Room() {
  const live = useClient("/live"), { messages, present } = useTopic<string>(live, "room:tea", { keep: 5 });
  return [useClientState(live), present.size, messages.map(({ data }) => data.length)];
}
"""
#: Statements that must not compile.
WRONG = [
    "connect();",
    'connect("/live", { tokens: async () => "token" });',
    'client.state = "closed";',
    'client.on("lost", () => {});',
    'client.subscribe("a", { since: 1 });',
    'client.subscribe<string>("a", ({ data }) => data.toFixed());',
    "client.publish({});",
    'client.call("a", "text");',
    'client.subscribe("a").present.set("a", 1);',
]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a program of Node.js, which must succeed; return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NODE_")} | variables
    try:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as exc:
        pytest.fail(f"it did not end: {exc.stdout!r}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_tests(*arguments: str | Path, cwd: Path, **variables: str) -> tuple[int, int]:
    """Run tests with Node.js; return how many have passed, and how many the file has at least."""
    found = re.search(r"^(?:#|ℹ) pass (\d+)$", run(node_program(), *arguments, cwd=cwd, **variables), re.M)
    written = re.findall(r"^ *(?:await )?(?:t\.)?test\(", (cwd / arguments[-1]).read_text(encoding="utf-8"), re.M)
    assert found is not None
    return int(found[1]), len(written)


@pytest.mark.parametrize("name", ["connecting", "topics", "hostile"])
def test_in_memory(name: str) -> None:
    passed, written = run_tests("--test", TESTS / f"{name}.test.mjs", cwd=TESTS)
    assert passed >= written > 0


@pytest.mark.parametrize("name", ["live", "fallback"])
def test_beside_a_server(name: str) -> None:
    path = os.pathsep.join(sys.path)
    variables = {"TEST_PORT": str(free_port()), "TEST_PYTHON": sys.executable, "PYTHONPATH": path}
    passed, written = run_tests("--experimental-websocket", TESTS / f"{name}.test.mjs", cwd=TESTS, **variables)
    assert passed >= written > 0


@pytest.fixture
def with_packages(tmp_path: Path) -> Path:
    """A copy of the client and its tests, beside the packages of npm."""
    _, modules = node_packages()
    shutil.copytree(CLIENT, tmp_path / "src" / "pywsapp" / "browser")
    shutil.copytree(TESTS, tmp_path / "tests" / "browser")
    (tmp_path / "node_modules").symlink_to(modules)
    return tmp_path


def test_hooks_of_react(with_packages: Path) -> None:
    passed, written = run_tests("--test", "tests/browser/react.test.mjs", cwd=with_packages)
    assert passed >= written > 0


def programs(page: Path, language: str) -> list[str]:
    """Return the programs of a page in a language, with the client beside them."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [text.replace('"/pywsapp', '"./pywsapp').replace("pywsapp/react", "./pywsapp-react.js") for text in found]


def test_types(with_packages: Path) -> None:
    """The files have the types that the declarations say, and the declarations allow what they should."""
    directory = with_packages / "src" / "pywsapp" / "browser"
    wrong = "".join(f"{{\n  // @ts-expect-error\n  {statement}\n}}\n" for statement in WRONG)
    (directory / "right.ts").write_text(RIGHT)
    names = 'import { connect, type Client } from "./pywsapp.js";\ndeclare const client: Client;\n'
    (directory / "wrong.ts").write_text(names + wrong)
    documented = [(text, "js") for page in (GUIDE, REFERENCE) for text in programs(page, "js")]
    documented += [(text, "tsx") for text in programs(GUIDE, "jsx")]
    for number, (text, suffix) in enumerate(documented):
        (directory / f"documented{number}.{suffix}").write_text(text)
    files = sorted(path.name for path in directory.iterdir() if path.suffix in (".js", ".ts", ".tsx"))
    options = "--jsx preserve --strict --noEmit --allowJs --checkJs --target es2022 --module esnext"
    options += " --moduleResolution bundler --lib es2022,dom,dom.iterable"
    options += " --exactOptionalPropertyTypes --noImplicitReturns --noUnusedLocals"
    tsc = with_packages / "node_modules" / ".bin" / "tsc"
    assert run(tsc, *options.split(), *files, cwd=directory) == ""


def test_size() -> None:
    assert len(gzip.compress((CLIENT / "pywsapp.js").read_bytes(), 9)) < MAX_SIZE


def test_the_client_needs_nothing_else_to_open_a_websocket() -> None:
    code = re.sub(r"/\*\*.*?\*/", "", (CLIENT / "pywsapp.js").read_text(encoding="utf-8"), flags=re.S)
    assert "export class" in code
    assert set(re.findall(r"\bimport\b[^;)]*|\brequire\b", code)) == {'import("./pywsapp-fallback.js"'}


def test_npm_package() -> None:
    package = json.loads((CLIENT / "package.json").read_bytes())
    assert (package["version"], package["license"]) == (pywsapp.__version__, "MIT")
    shipped = {path.name for path in CLIENT.iterdir() if path.suffix in (".js", ".ts")}
    exported = {name for entry in package["exports"].values() if isinstance(entry, dict) for name in entry.values()}
    assert exported == {f"./{name}" for name in shipped - {"pywsapp-fallback.js"}}  # which only pywsapp.js imports


def test_the_reference_has_every_name() -> None:
    files = sorted(CLIENT.glob("*.d.ts"))
    assert len(files) == 3
    declarations = "".join(file.read_text(encoding="utf-8") for file in files)
    documented = REFERENCE.read_text(encoding="utf-8")
    exported = re.findall(r"^export (?:function|interface|type|class) (\w+)", declarations, re.M)
    members = re.findall(r"^  (?:readonly )?(\w+)\??[:(<]", declarations, re.M)
    assert len(exported) > 10
    assert len(members) > 30
    missing = [found for found in {*exported, *members} - {"constructor"} if not re.search(rf"\b{found}\b", documented)]
    assert missing == []
