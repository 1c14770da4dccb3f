"""A program with `app.site`: Django in workers, and what ends the program with one line."""

from __future__ import annotations

import http.client
import re

import anyio
import pytest
from support.plain_site import PlainSite
from support.program import Program
from support.serving import GUARD

from pywsapp import App, ConfigurationError

pytestmark = pytest.mark.once

#: Django has no lifespan, so the site has one around it.
DJANGO = """
import sys

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from pywsapp import App

def page(request):
    return HttpResponse(f"{app.worker} {request.GET['name']} {len(request.body)} {request.META['REMOTE_ADDR']}")

urlpatterns = [path("page", page)]
settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=["django.middleware.common.CommonMiddleware"]
)
django = get_asgi_application()

async def site(scope, receive, send):
    if scope["type"] != "lifespan":
        await django(scope, receive, send)
        return
    for event in ("startup", "shutdown"):
        await receive()
        sys.stdout.write(f"{event} {app.worker}\\n")  # in one write, because the other worker writes too
        await send({"type": f"lifespan.{event}.complete"})

app = App("*", 0)
app.site(site)
app.run(workers=2)
"""


def test_each_worker_runs_the_lifespan_and_answers() -> None:
    with Program(DJANGO) as program:
        client = http.client.HTTPConnection("127.0.0.1", program.port, GUARD)
        workers = set()
        for body in (b"", b"x" * 2_000_000, b"x"):  # on one connection
            client.request("POST", "/page?name=ana", body)
            worker, answer = client.getresponse().read().split(b" ", 1)
            assert answer == b"ana %d 127.0.0.1" % len(body)
            workers.add(worker)
        assert workers in ({b"1"}, {b"2"})
        program.process.terminate()
        assert client.sock.recv(1) == b""  # it closes at once, without a request
        assert program.end() == 0
        client.close()
        for event in ("startup", "shutdown"):
            assert sorted(re.findall(rf"{event} (\d)", program.output)) == ["1", "2"]
        assert "ERROR" not in program.output


FAILING = """
from pywsapp import App

async def site(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "Traceback ...\\nRuntimeError: no database\\n"})

app = App(port=0)
app.site(site)
app.run()
"""


def test_a_startup_that_fails_ends_the_program_with_the_reason() -> None:
    with Program(FAILING) as program:
        assert program.end() == 1
        assert program.output.endswith("ConfigurationError: the site failed to start: RuntimeError: no database\n")
        assert "site.py" not in program.output  # the message says everything


def test_trio() -> None:
    app = App(port=0)
    app.site(PlainSite())
    with pytest.raises(ConfigurationError, match=r"^app\.site needs asyncio or uvloop"):
        anyio.run(app.serve, backend="trio")
