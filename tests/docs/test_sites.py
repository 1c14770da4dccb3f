"""The pages about a Django, a FastAPI and a Flask site: their files and commands run, and a browser logs in and out."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import socket
import ssl
import textwrap
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytest.register_assert_rewrite("support.browser")

from support.balancers import DEPLOY  # noqa: E402 - not before the line above
from support.browser import expect  # noqa: E402
from support.program import Program  # noqa: E402
from support.services import find_program, free_port  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]  # programs that start one after another

HOWTO = Path(__file__).parent.parent.parent / "docs" / "howto"
SITES = ("django", "fastapi", "flask")
HOST = "www.example.com"
WAIT_SECONDS = 40
USER, PASSWORD = "ana", "tea"
DJANGO = """
from django.core.management import execute_from_command_line as run
run(["django-admin", "startproject", "mysite", "."])
with open("mysite/settings.py", "a") as settings:  # the usual hasher takes most of the time of these tests
    settings.write("PASSWORD_HASHERS = ['django.contrib.auth.hashers.MD5PasswordHasher']")
"""
MIGRATED = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
import django
from django.core.management import call_command
django.setup()
call_command("migrate", verbosity=0)
call_command("createsuperuser", interactive=False, username="ana", email="ana@example.com")
"""


def page_of(name: str) -> str:
    return (HOWTO / f"authenticate-users-of-{name}.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


class Site:
    """A site and its `realtime.py`, as a page describes them, on free ports.

    Args:
        name: one of `SITES`.
        directory: an empty directory.
        variables: environment variables beside those of the page.
    """

    def __init__(self, name: str, directory: Path, **variables: str) -> None:
        self.name = name
        self.port, self.realtime_port = free_port(), free_port()
        self.url = f"http://localhost:{self.port}"
        self._directory = directory
        self.page = page_of(name)
        self._running = ExitStack()
        self._variables = {**self._exported(), **variables}

    def _exported(self) -> dict[str, str]:
        exports = re.findall(r"^export (.*)$", "\n".join(blocks(self.page, "sh")), re.MULTILINE)
        assert len(exports) == 2, "one for each terminal"
        assert exports[0] == exports[1]
        return dict(word.split("=", 1) for word in shlex.split(exports[0]))

    def __enter__(self) -> Site:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**self._variables, "DJANGO_SUPERUSER_PASSWORD": PASSWORD}.items():
                patch.setenv(name, value)
            if self.name == "django":
                self._finish(DJANGO)
            self._write_files()
            if self.name == "django":
                self._finish(MIGRATED)
            self.site = self._running.enter_context(Program(self._command(), cwd=self._directory))
            self.realtime = self._running.enter_context(Program(["realtime.py"], cwd=self._directory))
            assert self.realtime.port == self.realtime_port
            wait_until_listening(self.port, self.site)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _finish(self, source: str) -> None:
        with Program(source, cwd=self._directory) as program:
            assert program.end(WAIT_SECONDS) == 0, program.output

    def _write_files(self) -> None:
        for block in blocks(self.page, "python"):
            name, text = re.match(r"# (\S+\.py)\n(.*)", block, re.DOTALL).groups()  # type: ignore[union-attr]
            for documented, real in ("8000", str(self.port)), ("8080", str(self.realtime_port)):
                text = text.replace(documented, real)
            text = text.replace("1000 + Math.random() * 4000", "100")
            (self._directory / name).write_text(text, encoding="utf-8")

    def _command(self) -> list[str]:
        """Return the command of the page that starts the site, for Python."""
        lines = "\n".join(blocks(self.page, "sh")).splitlines()
        [command] = [line for line in lines if "8000" in line]
        program, *arguments = command.replace("8000", str(self.port)).split()
        # Its reloader would be another process, which outlives the test.
        return [*arguments, "--noreload"] if program == "python" else ["-m", program, *arguments]

    def connect(self, cookies: str, origin: str = "") -> Any:
        """Open a WebSocket as a page of the site would."""
        headers = {"Cookie": cookies, "Origin": origin or self.url}
        return connect(
            f"ws://localhost:{self.realtime_port}/ws/chat", additional_headers=headers, open_timeout=WAIT_SECONDS
        )

    def status(self, cookies: str, origin: str = "") -> int:
        """Return the status of a handshake."""
        try:
            with self.connect(cookies, origin):
                return 101
        except InvalidStatus as exc:
            return exc.response.status_code


def wait_until_listening(port: int, program: Program) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and program.process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
    pytest.fail(f"nothing listens on port {port}:\n{program.output}")


class Visitor:
    """A client of the site with its cookies."""

    def __init__(self, site: Site) -> None:
        self._jar = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._jar))
        self.url = site.url

    @property
    def cookies(self) -> str:
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._jar)

    def get(self, path: str = "/") -> str:
        """Return a page, after redirections; `url` is its address then."""
        return self._open(path, None)

    def post(self, path: str, page: str, **fields: str) -> str:
        """Send the form of a page."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        if token:
            fields["csrfmiddlewaretoken"] = token[1]
        return self._open(path, urllib.parse.urlencode(fields).encode())

    def _open(self, path: str, data: bytes | None) -> str:
        with self._opener.open(urllib.parse.urljoin(self.url, path), data, WAIT_SECONDS) as response:
            self.url = response.url
            return str(response.read().decode())

    def log_in(self) -> str:
        """Log in on the page that the site shows instead of the chat; return the chat."""
        form = self.get("/")
        assert "login" in self.url
        name = "username" if 'name="username"' in form else "name"
        chat = self.post(self.url, form, **{name: USER, "password": PASSWORD})
        assert "<title>Chat</title>" in chat
        return chat

    def log_out(self, chat: str) -> None:
        path = re.search(r'<form action="(/logout/?)"', chat)[1]  # type: ignore[index]
        self.post(path, chat)
        assert "login" in self.url


@pytest.fixture(scope="module", params=SITES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


def test_only_users_of_the_site_connect(site: Site) -> None:
    visitor = Visitor(site)
    assert site.status("") == 401
    visitor.get("/")
    assert site.status(visitor.cookies) == 401, "not logged in"
    chat = visitor.log_in()
    copied = visitor.cookies
    assert site.status(copied, "https://evil.example") == 403
    assert site.status(visitor.cookies[:-1]) == 401, "not the cookie of the site"
    with site.connect(visitor.cookies) as client:
        assert client.recv(WAIT_SECONDS) == f"hello {USER}"
        client.send("tea?")
        assert client.recv(WAIT_SECONDS) == f"{USER}: tea?"
        with site.connect(visitor.cookies) as other:
            assert other.recv(WAIT_SECONDS) == f"hello {USER}"
            visitor.log_out(chat)
            for one in client, other:
                with pytest.raises(ConnectionClosed) as closed:
                    one.recv(WAIT_SECONDS)
                assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "logged out")  # type: ignore[union-attr]
    assert site.status(visitor.cookies) == 401
    in_cookie = "A session in a cookie has no end on the server" in site.page
    assert in_cookie == (site.name != "django")
    assert site.status(copied) == (101 if in_cookie else 401)


@pytest.mark.parametrize("site", ["django"], indirect=True)  # the other pages have the same script
def test_a_browser_logs_in_and_out(site: Site, browser: Any) -> None:
    context = browser.new_context()
    try:
        page, other = context.new_page(), context.new_page()
        page.goto(site.url)
        page.locator("[name=username]").fill(USER)
        page.locator("[name=password]").fill(PASSWORD)
        page.locator("[name=password]").press("Enter")
        expect(page.locator("body")).to_contain_text(f"hello {USER}")
        other.goto(site.url)
        expect(other.locator("body")).to_contain_text(f"hello {USER}")
        other.get_by_role("button", name="Log out").click()
        expect(other.locator("[name=password]")).to_be_visible()
        expect(page.locator("[name=password]")).to_be_visible()
    finally:
        context.close()


def test_the_key_of_the_site(site: Site) -> None:
    for key, status in ("", 401), ("wrong" * 5, 401), ("only-for-development", 200):
        asking = http.client.HTTPConnection("127.0.0.1", site.realtime_port, timeout=WAIT_SECONDS)
        asking.request("POST", "/internal/disconnect", b"nobody", {"X-API-Key": key} if key else {})
        assert asking.getresponse().status == status
        asking.close()


def test_the_pages_have_the_same_script() -> None:
    scripts = {re.search(r"<script>.*?</script>", page_of(name), re.DOTALL)[0] for name in SITES}  # type: ignore[index]
    assert len(scripts) == 1


@pytest.mark.parametrize("name", SITES)
def test_the_configuration_of_nginx_is_that_of_the_file(name: str) -> None:
    [shown] = blocks(page_of(name), "nginx")
    lines = [line for line in (DEPLOY / "nginx-site.conf").read_text().splitlines() if not line.strip().startswith("#")]
    assert textwrap.indent(shown, " " * 8) in "\n".join(lines)


# -- behind nginx ------------------------------------------------------------------------------------------------------


@contextmanager
def nginx(site: Site, directory: Path, certificate: trustme.LeafCert) -> Iterator[int]:
    """Run the documented file; the value is the port."""
    program, port = find_program("nginx", "nginx"), free_port()
    certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "both.pem"))
    paths = "".join(f"    {path}_temp_path {directory}/{path};\n" for path in ("client_body", "proxy", "fastcgi"))
    paths += "".join(f"    {path}_temp_path {directory}/{path};\n" for path in ("uwsgi", "scgi"))
    text = (DEPLOY / "nginx-site.conf").read_text()
    for documented, real in {
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "/etc/ssl/site/fullchain.pem": f"{directory}/both.pem",
        "/etc/ssl/site/privkey.pem": f"{directory}/both.pem",
        "proxy_pass http://127.0.0.1:8080;": f"proxy_pass http://127.0.0.1:{site.realtime_port};",
        "proxy_pass http://127.0.0.1:8000;": f"proxy_pass http://127.0.0.1:{site.port};",
        "\nhttp {\n": f"\nhttp {{\n    access_log off;\n{paths}",
    }.items():
        assert documented in text
        text = text.replace(documented, real)
    (directory / "nginx.conf").write_text(text)
    settings = f"daemon off; master_process off; pid {directory}/pid; error_log stderr;"
    arguments = [program, "-p", str(directory), "-c", str(directory / "nginx.conf"), "-g", settings]
    with Program(["-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", *arguments]) as running:
        wait_until_listening(port, running)
        yield port


def test_both_behind_nginx(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    files, config = tmp_path / "site", tmp_path / "nginx"
    files.mkdir()
    config.mkdir()
    with Site("flask", files, SITE_HOST=HOST) as site, nginx(site, config, authority.issue_cert(HOST)) as port:

        def ask(method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
            asking = http.client.HTTPSConnection(HOST, context=tls, timeout=WAIT_SECONDS)
            asking.sock = tls.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=HOST)
            form = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
            asking.request(method, path, body or None, {**form, **headers})
            response = asking.getresponse()
            response.read()
            asking.close()
            return response

        def opened(origin: str, cookie: str) -> Any:
            return connect(
                f"wss://{HOST}/ws/chat",
                sock=socket.create_connection(("127.0.0.1", port)),
                ssl=tls,
                additional_headers={"Origin": origin, "Cookie": cookie},
                open_timeout=WAIT_SECONDS,
            )

        cookie = str(ask("POST", "/login", f"name={USER}&password={PASSWORD}").headers["Set-Cookie"]).partition(";")[0]
        for origin, sent, status in ("https://evil.example", cookie, 403), (f"https://{HOST}", "", 401):
            with pytest.raises(InvalidStatus) as refused:
                opened(origin, sent)
            assert refused.value.response.status_code == status
        key = os.environ.get("REALTIME_KEY", "only-for-development")
        assert ask("POST", "/internal/disconnect", USER, **{"X-API-Key": key}).status == 404, "the site answered"
        with opened(f"https://{HOST}", cookie) as client:
            assert client.recv(WAIT_SECONDS) == f"hello {USER}"
            assert ask("POST", "/logout", Cookie=cookie).status == 302
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(WAIT_SECONDS)
            assert closed.value.rcvd.code == 4401  # type: ignore[union-attr]
        # A logout works without the WebSockets too.
        site.realtime.process.kill()
        site.realtime.process.wait()
        assert ask("POST", "/logout", Cookie=cookie).status == 302
        site.site.until("the WebSockets of ana stay open")
