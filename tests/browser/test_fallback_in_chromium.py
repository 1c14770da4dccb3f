"""The browser client behind a real nginx that refuses Upgrade, and that sends each request to another node."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.program import Program  # noqa: E402 - not before the line above
from support.services import Service, find_program, redis_server, talk  # noqa: E402
from support.topic_pages import SITE, Site, heard, write_over_disconnects  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = pytest.mark.once

MESSAGES = 1_000
DISCONNECTS = 20
#: The default settings of nginx, which buffer responses, and compression of everything.
NGINX = """
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_buffer_size 1m;
    gzip on;
    gzip_types *;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream nodes {{
        server 127.0.0.1:{first};
        server 127.0.0.1:{second};
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            if ($http_upgrade) {{
                return 403;
            }}
            proxy_pass http://nodes;
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""
topics = (f"room:{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """The port of nginx, and those of the nodes behind it."""
    directory, program = tmp_path_factory.mktemp("nginx"), find_program("nginx", "nginx")
    config = directory / "nginx.conf"
    settings = f"daemon off; master_process off; pid {directory}/pid; error_log stderr;"
    nginx = Service(
        lambda _: [program, "-p", str(directory), "-c", str(config), "-g", settings],
        lambda nginx: talk(nginx.port, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 "),
    )
    with (
        redis_server() as redis,
        Program([str(SITE), "0", redis.url]) as first,
        Program([str(SITE), "0", redis.url]) as second,
    ):
        config.write_text(NGINX.format(directory=directory, port=nginx.port, first=first.port, second=second.port))
        with nginx:
            yield [nginx.port, first.port, second.port]


@pytest.fixture
def site(browser: Any, ports: list[int]) -> Iterator[Site]:
    context = browser.new_context()
    yield Site(context, *ports)
    context.close()


def test_messages_over_disconnects(site: Site) -> None:
    topic = next(topics)
    pages = [site.page(topic), site.page(topic)]
    write_over_disconnects(site, topic, pages, MESSAGES, DISCONNECTS)
    for page in pages:
        assert page.evaluate("client.state") == "open"


def test_tabs_that_share_a_connection(site: Site) -> None:
    topic = next(topics)
    pages = [site.page(topic, shared=True) for _ in range(2)]
    pages[0].evaluate("client.publish(room.topic, 'hello')")
    for page in pages:
        assert heard(page, 1) == ["hello"]


def test_the_next_page_does_not_try_a_websocket(site: Site) -> None:
    page = site.page(next(topics))
    page.goto(site.url)
    page.evaluate(
        """() => {
            window.tried = 0;
            window.WebSocket = class { constructor(url) { tried += String(url).endsWith("/live"); } close() {} };
        }"""
    )
    site.open(page, next(topics))
    assert page.evaluate("tried") == 0
