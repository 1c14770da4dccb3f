"""A program with `app.site`: workers, and what ends it with one line."""

from __future__ import annotations

import http.client
import re

import pytest
from support.program import Program
from support.serving import GUARD

pytestmark = pytest.mark.once

WORKERS = """
from pywsapp import App

async def site(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("startup", app.worker, flush=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown", app.worker, flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"%d" % app.worker})

app = App("*", 0)
app.site(site)
app.run(workers=2)
"""


def test_each_worker_runs_the_lifespan_and_answers() -> None:
    with Program(WORKERS) as program:
        client = http.client.HTTPConnection("127.0.0.1", program.port, GUARD)
        answers = []
        for _ in range(3):  # on one connection
            client.request("GET", "/")
            answers.append(client.getresponse().read())
        assert answers in ([b"1"] * 3, [b"2"] * 3)
        program.process.terminate()
        assert client.sock.recv(1) == b""  # it closes at once, without a request
        assert program.end() == 0
        client.close()
        for event in ("startup", "shutdown"):
            assert sorted(re.findall(rf"{event} (\d)", program.output)) == ["1", "2"]


DJANGO = """
import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from pywsapp import App, EchoServer

def page(request):
    return HttpResponse(f"{request.method} {request.GET['name']} {len(request.body)} {request.META['REMOTE_ADDR']}")

urlpatterns = [path("page", page)]
settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=["django.middleware.common.CommonMiddleware"]
)
app = App(port=0)
app.route("/echo", EchoServer())
app.site(get_asgi_application())
app.run()
"""


def test_django() -> None:
    with Program(DJANGO) as program:
        client = http.client.HTTPConnection("localhost", program.port, GUARD)
        for name, body in (("ana", b""), ("bo", b"x" * 2_000_000)):
            client.request("POST", f"/page?name={name}", body)
            assert client.getresponse().read() == f"POST {name} {len(body)} 127.0.0.1".encode()
        program.process.terminate()
        assert program.end() == 0
        client.close()
    assert "ERROR" not in program.output


TRIO = """
from pywsapp import App
app = App(port=0)
app.site(lambda scope, receive, send: None)
app.run(backend="trio")
"""


FAILING = """
from fastapi import FastAPI
from pywsapp import App

async def lifespan(site):
    raise RuntimeError("no database")
    yield

app = App(port=0)
app.site(FastAPI(lifespan=lifespan))
app.run()
"""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (TRIO, "app.site needs asyncio or uvloop: uvicorn, which serves the site, has no trio"),
        (FAILING, "the site failed to start: RuntimeError: no database"),
    ],
    ids=["trio", "startup"],
)
def test_it_ends_with_the_reason(source: str, message: str) -> None:
    with Program(source) as program:
        assert program.end() == 1
        assert program.output.endswith(f"ConfigurationError: {message}\n")
