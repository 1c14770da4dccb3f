"""Secrets are compared in constant time: by `hmac.compare_digest`, on bytes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
SOURCE = Path(__file__).parent.parent / "src" / "pywsapp"
SECRET = re.compile(r"signature|digest|\bmac\b|hmac|secret|password|token|ticket|api_key")
#: Comparisons that no client can time, and why.
TRUSTED = {
    "_clients/memcached_client.py: self._loop != current_token()": "event loops",
    "auth/api_keys.py: digest == other": "the keys of the program, at start",
    "sessions/django.py: session.session_key != token": "after Django has found the session",
    "sessions/service.py: saved != session._token": "after the store has found the session",
    "testing/sessions.py: len(set(tokens)) == len(tokens)": "numbers",
    "topics/history/claims.py: data == token": "random, made a moment before, and never sent to a client",
}
COMPARED = [
    "auth/api_keys.py: digest, other",
    "auth/signed_urls.py: signature, _signature(key, signed).encode()",
    "brokers/envelope.py: signature, _signature(key, content)",
    "routing/endpoints.py: found[2].encode(), _digest(key, found[1], path, body).encode()",
    "sessions/django_cookie.py: sent, _signature(key, value).encode()",
    "topics/fallback/service.py: given, _signature(key, unsigned).encode()",
]


def nodes(kind: type[ast.AST]) -> list[tuple[str, ast.AST]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [(path.relative_to(SOURCE).as_posix(), node) for node in ast.walk(tree) if isinstance(node, kind)]
    return found


def is_secret(node: ast.expr) -> bool:
    return isinstance(node, (ast.Name, ast.Attribute, ast.Subscript, ast.Call)) and bool(
        SECRET.search(ast.unparse(node).lower())
    )


def test_no_secret_is_compared_by_an_operator() -> None:
    found = set()
    for name, node in nodes(ast.Compare):
        assert isinstance(node, ast.Compare)
        sides = [node.left, *node.comparators]
        is_equality = any(isinstance(operator, (ast.Eq, ast.NotEq)) for operator in node.ops)
        if is_equality and not any(isinstance(side, ast.Constant) for side in sides) and any(map(is_secret, sides)):
            found.add(f"{name}: {ast.unparse(node)}")
    assert found == set(TRUSTED)


def test_what_is_compared_in_constant_time_is_bytes() -> None:
    """`compare_digest` raises TypeError for a str that is not ASCII, which a client could send."""
    found = []
    for name, node in nodes(ast.Call):
        assert isinstance(node, ast.Call)
        if ast.unparse(node.func).endswith("compare_digest"):
            found.append(f"{name}: {', '.join(map(ast.unparse, node.args))}")
    assert sorted(found) == COMPARED, "the arguments must be bytes"
