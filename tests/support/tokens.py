"""Keys and tokens for tests, and a server on loopback that serves a key set."""

from __future__ import annotations

import base64
import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

ISSUER = "https://issuer.example"
NOW = 1_767_225_600.0


@functools.cache
def rsa_key(number: int = 0) -> Any:
    return RSAKey.generate_key(2048, auto_kid=False)


@functools.cache
def ec_key(curve: Any = "P-256") -> Any:
    return ECKey.generate_key(curve, auto_kid=False)


@functools.cache
def ed_key() -> Any:
    return OKPKey.generate_key("Ed25519", auto_kid=False)


def secret_key(secret: bytes) -> Any:
    return OctKey.import_key(secret)


def public(key: Any, kid: str | None = "a", **members: Any) -> dict[str, Any]:
    """Return the public half of a key, as it is in a key set."""
    return {**key.as_dict(private=False), **({} if kid is None else {"kid": kid}), **members}


def encoded(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a valid token; a change to None leaves a claim out."""
    found = {"iss": ISSUER, "sub": "ana", "aud": "chat", "exp": NOW + 60, "iat": NOW, **changes}
    return {name: value for name, value in found.items() if value is not None}


def token(key: Any, algorithm: str = "RS256", body: object = None, **header: Any) -> str:
    """Return a signed token; a header of None leaves a field out."""
    fields = {"alg": algorithm, "kid": "a", **header}
    head = encoded({name: value for name, value in fields.items() if value is not None})
    signed = f"{head}.{encoded(claims() if body is None else body)}"
    return f"{signed}.{encoded(JWSRegistry.algorithms[algorithm].sign(signed.encode(), key))}"


class KeyServer:
    """A server for a key set.

    Attributes:
        url: the URL of the set.
        paths: the paths of all requests so far.
        answer: called with the handler of each request.
    """

    def __init__(self, *keys: Mapping[str, Any]) -> None:
        self.paths: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.serves(*keys)
        self.url = ""

    @staticmethod
    def serves(*keys: Mapping[str, Any]) -> Callable[[BaseHTTPRequestHandler], None]:
        return KeyServer.sends(json.dumps({"keys": keys}).encode())

    @staticmethod
    def sends(body: bytes, status: int = 200, **fields: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body)))
            for name, value in fields.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)

        return answer


@contextmanager
def key_server(*keys: Mapping[str, Any], context: Any = None) -> Iterator[KeyServer]:
    """Serve a key set on loopback, over TLS with a context."""
    served = KeyServer(*keys)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.paths.append(self.path)
            served.answer(self)

        def log_message(self, *args: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None: ...  # the client closes connections that take too long

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    served.url = f"{'http' if context is None else 'https'}://localhost:{server.server_port}/keys.json"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
