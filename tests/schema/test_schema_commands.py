"""The commands `pywsapp asyncapi` and `pywsapp types`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.documented import documented

from pywsapp._schema.typescript import types_of
from pywsapp.cli import main

pytestmark = pytest.mark.once
APP = ["support.documented:documented", "--factory"]


def test_asyncapi_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["asyncapi", *APP, "--title", "Grüße", "--api-version", "2", "--url", "ws://chat.example"]) == 0
    output = capsys.readouterr().out
    assert json.loads(output) == documented().asyncapi(title="Grüße", version="2", url="ws://chat.example")
    assert '"title": "Grüße"' in output


def test_types_writes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "messages.ts"
    assert main(["types", *APP, "--output", str(file)]) == 0
    assert file.read_text(encoding="utf-8") == types_of(documented().asyncapi())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (
            ["asyncapi", *APP, "--output", "/no/such/directory/file"],
            "cannot write /no/such/directory/file: No such file",
        ),
        (["asyncapi", *APP, "--title", ""], "title must be a text, not ''"),
        (["types", "support.documented:documented"], "if it is a function that makes one, add --factory"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1
