"""The events of the log, as the source has them: names, levels and fields of all its log lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent.parent / "src" / "pywsapp"
_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
#: The events of lines that are logged for several events, by their module.
_SEVERAL = {
    "_connecting/reconnecting.py": ("client.lost", "client.not_connected"),
    "_limits/report.py": (
        "limit.exceeded",
        "rate_limit.delayed",
        "rate_limit.dropped",
        "rate_limit.closed",
        "rate_limit.ping_dropped",
    ),
}
ABOUT = {
    "request": ("method", "path", "remote_address", "user"),
    "connection": ("connection", "method", "path", "remote_address", "user"),
}


@dataclass(frozen=True)
class LogCall:
    """A call of a logger in the source.

    Attributes:
        place: the module and the line.
        level: the level; None if it depends.
        text: the sentence, with "..." for its values; empty if it depends.
        events: the names of its events; empty if the call has no fields.
        about: "connection" or "request" if the line is about one, else an empty string.
        fields: the further fields.
    """

    place: str
    level: str | None
    text: str
    events: tuple[str, ...]
    about: str
    fields: tuple[str, ...]


def log_calls(source: Path = SOURCE) -> Iterator[LogCall]:
    """Find the calls of the library's loggers; lines in the name of uvicorn have no events."""
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS):
                continue
            if ast.unparse(node.func.value).split(".")[-1] in ("logger", "_logger", "access_logger"):
                yield _log_call(name, node, node.func.attr)


def _log_call(name: str, node: ast.Call, method: str) -> LogCall:
    level = {"log": None, "exception": "ERROR"}.get(method, method.upper())
    text = node.args[1 if method == "log" else 0]
    shown = re.sub(r"%[^%a-z]*[a-z]", "...", str(text.value)) if isinstance(text, ast.Constant) else ""
    extra = next((keyword.value for keyword in node.keywords if keyword.arg == "extra"), None)
    events: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    about = ""
    if isinstance(extra, ast.Call) and ast.unparse(extra.func) == "log_fields":
        event = extra.args[0]
        events = (str(event.value),) if isinstance(event, ast.Constant) else _SEVERAL.get(name, ())
        if len(extra.args) > 1:
            about = "request" if ast.unparse(extra.args[1]).endswith("request") else "connection"
        fields = tuple(str(keyword.arg) for keyword in extra.keywords)
    return LogCall(f"{name}:{node.lineno}", level, shown, events, about, fields)
