"""A missing library is named with the extra that installs it, however a program asks for what needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("library", "extra", "code"),
    [
        ("joserfc", "jwt", "from pywsapp.auth.jwt import JwtAuthenticator"),
        ("joserfc", "jwt", "import pywsapp.auth.jwks"),
        ("itsdangerous", "sessions", "from pywsapp.sessions.signed_cookie import SignedCookieStore"),
        ("itsdangerous", "sessions", "from pywsapp.sessions.flask import FlaskSessionStore"),
        ("itsdangerous", "sessions", "from pywsapp.sessions.starlette import StarletteSessionStore"),
        ("msgspec", "sessions", "from pywsapp.sessions.flask_session import FlaskRedisStore"),
        ("isal", "isal", "from pywsapp.isal import compressor"),
        ("redis", "redis", "from pywsapp import App; App(broker='redis://localhost')"),
        ("redis", "redis", "from pywsapp import App; App(session_store='redis://localhost')"),
        ("redis", "redis", "from pywsapp.auth import TicketIssuer; TicketIssuer('redis://localhost')"),
        ("cryptography", "dev-tls", "from pywsapp import Tls; Tls.self_signed()"),
    ],
)
def test_the_message_names_the_extra(library: str, extra: str, code: str) -> None:
    hidden = f"import sys; sys.modules[{library!r}] = None; {code}"
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert done.stderr.endswith(f"Error: {library} is not installed: pip install 'pywsapp[{extra}]'\n")
