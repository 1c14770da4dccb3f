"""The receiver in PHP of docs/howto/call-webhooks.md takes the requests of a webhook, and no others."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import anyio
import httpx
import pytest
from support.outages import until
from support.receiver import SECRET
from support.services import Service, talk

from pywsapp import WebhookOptions
from pywsapp.topics.occupancy.changes import EVENT_TYPES, Change, Kind, Subject
from pywsapp.webhooks.sender import WebhookSender
from pywsapp.webhooks.target import sender_of

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "call-webhooks.md"
PHP = shutil.which("php")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.once,
    pytest.mark.parametrize("anyio_backend", ["trio"]),
    pytest.mark.skipif(PHP is None, reason="needs php: apt-get install php-cli"),
]


def make_site(secret: str = SECRET) -> Service:
    """Return a site with the code of the page, which is not started yet."""
    status = b" 401 " if secret else b" 500 "
    site = Service(
        lambda site: [str(PHP), "-S", f"127.0.0.1:{site.port}", "hooks.php"],
        lambda site: talk(site.port, b"POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", status),
        {"HOOK_SECRET": secret},
    )
    found = re.search(r"^```php\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert found is not None
    (site.directory / "hooks.php").write_text(found[1])
    return site


async def deliver(site: Service, secret: str) -> WebhookSender:
    """Send two events with a secret; return the sender when the site has answered."""
    url = f"http://localhost:{site.port}/hooks"
    sender = sender_of(url, secret, EVENT_TYPES, ["*"], WebhookOptions(), allow_http=False)
    sender.add(Change(Subject(Kind.TOPIC, "room:été"), is_present=True))
    sender.add(Change(Subject(Kind.USER, "ana"), is_present=False))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.run)
        await until(lambda: not sender.stats.waiting)
        tasks.cancel_scope.cancel()
    return sender


async def test_the_receiver_in_php() -> None:
    with make_site() as site:
        assert (await deliver(site, SECRET)).stats.delivered == 2
        assert "topic_occupied room:été" in site.output
        assert "user_offline ana" in site.output
        assert (await deliver(site, "another secret of 16 bytes")).stats.dropped == 2
        async with httpx.AsyncClient() as client:
            for headers in ({}, {"webhook-timestamp": "soon"}, {"webhook-signature": "v1"}):
                response = await client.post(f"http://127.0.0.1:{site.port}/", headers=headers, content=b"{}")
                assert (response.status_code, response.content) == (401, b"")
        with make_site(secret=""):  # it answers with 500
            pass
        for word in ("Warning", "Notice", "Deprecated", "Fatal"):
            assert word not in site.output
