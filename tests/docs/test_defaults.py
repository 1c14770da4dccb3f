"""The column of pywsapp in docs/reference/defaults.md has the defaults of the code, and no option is missing."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import trustme

from pywsapp import App, Backoff, Options, RateLimit, WebhookOptions
from pywsapp._connecting.arguments import check_arguments
from pywsapp._server.pending import MAX_PENDING
from pywsapp._server.tls import server_context
from pywsapp.auth import TicketIssuer
from pywsapp.options import Deflate
from pywsapp.sessions import SessionStore

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "defaults.md"
pytestmark = pytest.mark.once

CLASSES: dict[str, Callable[..., Any]] = {
    "App": App.__init__,
    "Backoff": Backoff,
    "App.route": App.route,
    "Deflate": Deflate,
    "Options": Options,
    "RateLimit": RateLimit.__init__,
    "SessionStore": SessionStore.__init__,
    "connect": check_arguments,
    "TicketIssuer": TicketIssuer.__init__,
    "WebhookOptions": WebhookOptions,
}
MIB, KIB = 1024 * 1024, 1024
SECONDS = ("timeout", "_interval", "_delay", "seconds", "max_age", ".base", ".cap", "_after")
BYTES = ("_size", "_bytes", "_water", "_outbox")
#: What the page says in place of a value that stands for something else.
FACTS: dict[str, dict[Any, str]] = {
    "Options.deflate": {None: "off"},
    "Deflate.server_no_context_takeover": {True: "no"},
    "App.route.allowed_origins": {None: "refused"},
    "App.route.require_origin": {False: "accepted"},
    "App.http_host": {"localhost": "refused"},
    "App.authenticate": {None: "accepted"},
    "App.trusted_proxies": {(): "ignored"},
    "App.max_connections": {None: "what the open files allow"},
    "App.max_pending": {None: f"{MAX_PENDING:,}"},
    "App.tls": {None: "off"},
    "App.broker_key": {None: "off"},
    "App.access_log": {False: "off"},
    "connect.max_redirects": {0: "none"},
    "connect.proxy": {None: "none"},
}
#: Options that limit nothing by default, and are no matter of security.
LEFT_OUT = {"cancel_on_disconnect", "drain_delay"}


def rows() -> list[tuple[str, str]]:
    """Return the name and the default of each row that names an option."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^\|[^|]*\| `([\w.]+)` \| ([^|]+?) \|", text, re.MULTILINE)


def default(name: str) -> Any:
    owner, _, argument = name.rpartition(".")
    return inspect.signature(CLASSES[owner]).parameters[argument].default


def written(name: str, value: Any) -> str:
    """Return a default as the page writes it."""
    if name in FACTS:
        return FACTS[name][value]
    if value is None:
        return "none"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str):
        return value
    if name.endswith(SECONDS):
        return f"{value:,} s"
    if name.endswith(BYTES):
        return f"{value // MIB} MiB" if value % MIB == 0 else f"{value // KIB} KiB"
    return f"{value:,}"


def test_the_page_has_the_defaults() -> None:
    shown = [row for row in rows() if row[0] != "Tls"]
    assert len(shown) > 40
    assert shown == [(name, written(name, default(name))) for name, _ in shown]


def test_every_option_is_on_the_page() -> None:
    named = {name for name, _ in rows()}
    options = {f"Options.{field.name}" for field in dataclasses.fields(Options) if field.name not in LEFT_OUT}
    options |= {f"WebhookOptions.{field.name}" for field in dataclasses.fields(WebhookOptions)}
    assert options - named == set()
    limits = {name for name in inspect.signature(App).parameters if name.startswith("max_")}
    assert {f"App.{name}" for name in limits} - named == set()


def test_the_lowest_version_of_tls(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    context = server_context(tmp_path / "both.pem")
    assert dict(rows())["Tls"] == context.minimum_version.name.removeprefix("TLSv").replace("_", ".")


def test_the_versions_of_the_installed_libraries() -> None:
    page = PAGE.read_text(encoding="utf-8")
    lock = (PAGE.parent.parent.parent / "requirements" / "dev.txt").read_text()
    for library in "websockets", "uvicorn":
        [newest] = re.findall(rf"^{library}==(\S+)(?: ; python_full_version >= '3.11')? \\$", lock, re.MULTILINE)
        assert re.search(rf"^\| {library} \| {re.escape(newest)}\b", page, re.MULTILINE), "read its defaults again"
