"""The parser of the AsyncAPI initiative finds nothing wrong in our documents."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.documented import documented, plain
from support.node_packages import node_packages

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]  # two seconds of one processor, if there is one

CHECK = """
const { createRequire } = require("module");
const { Parser } = createRequire(process.argv[2] + "/")("@asyncapi/parser");
const documents = JSON.parse(require("fs").readFileSync(process.argv[3], "utf8"));
(async () => {
  const found = {}, parser = new Parser();
  for (const [name, text] of Object.entries(documents)) {
    const { document, diagnostics } = await parser.parse(text);
    found[name] = {
      problems: diagnostics.map(({ severity, code, path }) => [severity, code, path.join(".")]),
      channels: document ? document.channels().all().map((channel) => channel.address()) : [],
      operations: document ? document.operations().all().map((operation) => operation.id()) : [],
    };
  }
  console.log(JSON.stringify(found));
})();
"""
#: The document has the version that most tools read.
EXPECTED = [[2, "asyncapi-latest-version", "asyncapi"]]


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    whole = documented().asyncapi(url="wss://chat.example", description="A test.")
    wrong = copy.deepcopy(whole)
    wrong["operations"]["chat_send"]["messages"][0]["$ref"] = "#/channels/chat/messages/Nothing"
    return {"whole": whole, "plain": plain().asyncapi(), "wrong": wrong}


@pytest.fixture(scope="module")
def parsed(documents: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the parser says about each of the documents; it is started once, because it takes two seconds."""
    node, modules = node_packages()
    directory: Path = tmp_path_factory.mktemp("asyncapi")
    (directory / "check.js").write_text(CHECK)
    texts = {name: json.dumps(document) for name, document in documents.items()}
    (directory / "documents.json").write_text(json.dumps(texts))
    arguments = [node, str(directory / "check.js"), str(modules), str(directory / "documents.json")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["whole", "plain"])
def test_a_document_is_valid(name: str, documents: dict[str, Any], parsed: dict[str, Any]) -> None:
    assert parsed[name]["problems"] == EXPECTED
    channels = [channel["address"] for channel in documents[name]["channels"].values()]
    assert sorted(parsed[name]["channels"]) == sorted(channels)
    assert sorted(parsed[name]["operations"]) == sorted(documents[name]["operations"])


def test_the_parser_finds_a_mistake(parsed: dict[str, Any]) -> None:
    assert any(severity == 0 for severity, _, _ in parsed["wrong"]["problems"])
