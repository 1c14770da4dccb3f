"""The log of a program: `log_format`, `--log-format` and `--log-config`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.program import Program

from pywsapp import App, ConfigurationError
from pywsapp._process.logging import configure_logging
from pywsapp.logs import JsonFormatter

pytestmark = pytest.mark.once

ECHO = "from pywsapp import App, EchoServer\napp = App('*', 0)\napp.route('/', EchoServer())\n"
ON_STARTUP = """
import logging

@app.on_startup
def begin():
    logging.getLogger("pywsapp.chat").info("begun")
"""
CONFIGURATION = {
    "formatters": {"json": {"()": "pywsapp.logs.JsonFormatter", "defaults": {"service": "chat"}}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
    "root": {"handlers": ["out"], "level": "INFO"},
}
TOML = """
[formatters.json]
"()" = "pywsapp.logs.JsonFormatter"
defaults = { service = "chat" }

[handlers.out]
class = "logging.StreamHandler"
formatter = "json"
stream = "ext://sys.stdout"

[root]
handlers = ["out"]
level = "INFO"
"""
INI = """
[loggers]
keys = root
[handlers]
keys = out
[formatters]
keys = json
[logger_root]
level = INFO
handlers = out
[handler_out]
class = StreamHandler
formatter = json
args = (sys.stdout,)
[formatter_json]
class = pywsapp.logs.JsonFormatter
"""


def test_log_format_json_is_one_object_a_line() -> None:
    with Program(f"{ECHO}app.run(log_format='json')") as program:
        line = json.loads(program.until(".*server.started.*\n")[0])
    assert (line["event"], line["level"], line["logger"]) == ("server.started", "INFO", "pywsapp")
    assert line["urls"].startswith("http://127.0.0.1:")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers")
def test_lines_of_workers_name_the_worker(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(ECHO + ON_STARTUP)
    arguments = ["-m", "pywsapp", "run", "chat", "--workers", "2", "--log-format", "json"]
    with Program(arguments, cwd=tmp_path) as program:
        lines = [json.loads(program.until(f".*begun.*worker {number}.*\n")[0]) for number in (1, 2)]
    assert [line["worker"] for line in lines] == ["worker 1", "worker 2"]
    assert len({line["pid"] for line in lines}) == 2


def test_lines_of_the_program_have_the_form_of_the_others(tmp_path: Path) -> None:
    own = "import logging\nlogger = logging.getLogger('chat')\n@app.on_startup\ndef begin():\n    logger.{}('begun')\n"
    with Program(f"{ECHO}{own.format('info')}app.run(log_format='json')") as program:
        line = json.loads(program.until(".*begun.*\n")[0])
    assert (line["message"], line["level"], line["logger"]) == ("begun", "INFO", "chat")
    (tmp_path / "chat.py").write_text(ECHO + own.format("info") + own.format("warning"))
    with Program(["-m", "pywsapp", "run", "chat", "--log-level", "warning"], cwd=tmp_path) as program:
        program.until("WARNING begun\n")
        assert "INFO" not in program.output


def test_log_format_has_no_effect_if_the_program_has_set_up_logging() -> None:
    own = "import logging\nlogging.basicConfig(format='MINE %(message)s', level='INFO')\n"
    with Program(f"{own}{ECHO}app.run(log_format='json')") as program:
        program.until("MINE log_format='json' has no effect, because the program has set up logging; .*\n")


def test_log_format_must_be_known() -> None:
    with pytest.raises(ConfigurationError, match="log_format must be 'text' or 'json', not 'xml'"):
        App().run(log_format="xml")


def test_a_program_is_run_with_a_log_configuration(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(f"import logging\nlogging.getLogger('mine').info('imported')\n{ECHO}")
    (tmp_path / "log.json").write_text(json.dumps(CONFIGURATION))
    with Program(["-m", "pywsapp", "run", "chat", "--log-config", "log.json"], cwd=tmp_path) as program:
        lines = [json.loads(program.until(f".*{part}.*\n")[0]) for part in ("imported", "server.started")]
    assert [(line["logger"], line["service"]) for line in lines] == [("mine", "chat"), ("pywsapp", "chat")]


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("log.json", json.dumps(CONFIGURATION)),
        pytest.param(
            "log.toml", TOML, marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="there is no tomllib")
        ),
        ("log.ini", INI),
        ("log.conf", INI),
    ],
)
def test_files(file: str, text: str, tmp_path: Path, root: logging.Logger) -> None:
    (tmp_path / file).write_text(text)
    configure_logging(str(tmp_path / file))
    assert isinstance(root.handlers[-1].formatter, JsonFormatter)
    assert not logging.getLogger("pywsapp").disabled


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("log.yaml", "", "must end in .json, .toml or .ini"),
        ("log.json", None, "cannot be read: No such file or directory"),
        ("log.json", "{", "is not valid: Expecting property name"),
        ("log.json", "[]", "is not valid"),
        ("log.json", '{"version": 2}', "is not valid: Unsupported version: 2"),
        ("log.json", '{"root": {"handlers": ["out"]}}', "is not valid: Unable to configure root logger: .*out"),
        ("log.json", '{"handlers": {"out": {"class": "no.H"}}}', "is not valid: Unable to configure handler 'out'"),
        ("log.ini", "[loggers]", "is not valid"),
        ("log.ini", "x", "is not valid"),
    ],
)  # fmt: skip
def test_wrong_files(file: str, text: str | None, what: str, tmp_path: Path, root: logging.Logger) -> None:
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(ConfigurationError, match=what):
        configure_logging(str(tmp_path / file))
