"""A missing library is named with the extra that installs it, however a program asks for what needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Without the start-up files of the environment, some of which import libraries: only the search path.
PATH = f"import sys; sys.path = {sys.path!r}"

#: A component whose messages are dataclasses.
TYPED = """
from dataclasses import dataclass
from pywsapp import App, MessageComponent
@dataclass
class Point: x: int
class Chat(MessageComponent):
    def on_message(self, conn, message: Point): ...
"""


@pytest.mark.parametrize(
    ("library", "extra", "code"),
    [
        ("joserfc", "jwt", "from pywsapp.auth.jwt import JwtAuthenticator"),
        ("joserfc", "jwt", "import pywsapp.auth.jwks"),
        ("itsdangerous", "sessions", "from pywsapp.sessions.signed_cookie import SignedCookieStore"),
        ("itsdangerous", "sessions", "from pywsapp.sessions.flask import FlaskSessionStore"),
        ("itsdangerous", "sessions", "from pywsapp.sessions.starlette import StarletteSessionStore"),
        ("msgspec", "sessions", "from pywsapp.sessions.flask_session import FlaskRedisStore"),
        ("python-socks", "proxy", "from pywsapp import connect; connect('ws://localhost', proxy='socks5://localhost')"),
        ("isal", "isal", "from pywsapp.isal import compressor"),
        ("uvicorn", "uvicorn", "import pywsapp.asgi.uvicorn"),
        ("uvicorn", "uvicorn", "from pywsapp import App; App().site(print)"),
        ("redis", "redis", "from pywsapp import App; App(broker='redis://localhost')"),
        ("redis", "redis", "from pywsapp import App; App(session_store='redis://localhost')"),
        ("redis", "redis", "from pywsapp.sessions.php_redis import PhpRedisStore"),
        ("redis", "redis", "from pywsapp.sessions.redis import RedisSessionStore"),
        ("nats", "nats", "from pywsapp.brokers.nats import NatsBroker"),
        ("aio_pika", "rabbitmq", "from pywsapp.brokers.rabbitmq import RabbitBroker"),
        ("redis", "redis", "from pywsapp.auth import TicketIssuer; TicketIssuer('redis://localhost')"),
        ("httpx", "webhooks", "from pywsapp import App; App().webhook('https://localhost', secret='0' * 16)"),
        ("prometheus_client", "prometheus", "from pywsapp import App; App().metrics(port=9100)"),
        ("opentelemetry", "otlp", "from pywsapp.telemetry.otlp import export_over_otlp"),
        ("cryptography", "dev-tls", "from pywsapp import Tls; Tls.self_signed()"),
        ("msgspec", "msgspec", "from pywsapp.codecs import MessagePackCodec; MessagePackCodec()"),
        ("msgspec", "msgspec", f"{TYPED}App().route('/', Chat())"),
        ("msgspec", "msgspec", "from pywsapp import App; App().asyncapi()"),
        ("cbor2", "cbor", "from pywsapp.codecs import CborCodec; CborCodec()"),
        ("orjson", "orjson", "from pywsapp.codecs import JsonCodec; JsonCodec('orjson')"),
        ("protobuf", "protobuf", "from pywsapp.codecs import ProtobufCodec; ProtobufCodec()"),
    ],
)
def test_the_message_names_the_extra(library: str, extra: str, code: str) -> None:
    module = {"protobuf": "google", "python-socks": "python_socks"}.get(library, library)
    hidden = f"import sys; sys.modules[{module!r}] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert done.stderr.endswith(f"Error: {library} is not installed: pip install 'pywsapp[{extra}]'\n")


def test_the_package_imports_no_library_of_an_extra() -> None:
    code = "import pywsapp, sys; pywsapp.App; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-S", "-c", f"{PATH}; {code}"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    found = {name for name in done.stdout.split() if not name.startswith("_")} - sys.stdlib_module_names
    assert {"anyio", "pywsapp", "wsproto"} <= found
    own = {"pywsapp", "cython_runtime"}
    # anyio imports sniffio where it is installed.
    assert found - own <= {"anyio", "exceptiongroup", "h11", "idna", "sniffio", "typing_extensions", "wsproto"}
