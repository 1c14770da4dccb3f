"""Pages of other sites in a real browser, with the cookie of the user: none opens a connection or reads a response.

Every page tries the same: a WebSocket on each route, fetch with GET and POST, EventSource, and a script element. The
cookie is of the kind that browsers send with requests of all sites.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.browser import ARGUMENTS, MISSING  # noqa: E402 - not before the line above
from support.program import Program  # noqa: E402
from support.services import find_program  # noqa: E402

sync_api = pytest.importorskip("playwright.sync_api", reason=MISSING)

#: All names resolve to this machine, so a name is what an attacker makes of it.
RESOLVER = "--host-resolver-rules=MAP * 127.0.0.1"
SITE = """
import json
import sys

from pywsapp import App, InvalidCredentials, MessageComponent, Response, Tls
from pywsapp.auth import TicketAuthenticator, TicketIssuer

class Chat(MessageComponent):
    def on_open(self, conn):
        conn.send("secret of " + conn.request.cookies.get("user", "nobody"))

class Tickets(MessageComponent):
    def on_open(self, conn):
        conn.send("secret of " + conn.user)

def user(request):
    print(f"asked {{request.path}} {{request.headers.get('origin')}} {{'user' in request.cookies}}", flush=True)
    name = request.cookies.get("user")
    if name is None:
        raise InvalidCredentials
    return name

tickets = TicketIssuer()
app = App("localhost", 0)
app.listen(port=0, tls=Tls.self_signed())
app.route("/chat", Chat())
app.route("/partner", Chat(), allowed_origins=["http://parent.example:{port}"])
app.route("/ticket-chat", Tickets(), authenticate=TicketAuthenticator(tickets))
app.http("/", lambda request: Response.html("<!doctype html><title>Site</title>"))

@app.http("/me", methods=["GET", "POST"], authenticate=user)
def me(request):
    return {{"secret": request.user}}
@app.http("/mark")
def mark(request):
    print("mark", flush=True)
    return {{}}

@app.http("/ticket", methods=["POST"], authenticate=user)
async def ticket(request):
    return {{"ticket": await tickets.issue_for(request)}}

app.run()
"""
ATTACK = """
async site => {
    const within = promise => Promise.race([promise, new Promise(end => setTimeout(() => end("timeout"), 20000))]);
    const socket = url => within(new Promise(end => {
        let ws;
        try { ws = new WebSocket(url); } catch (error) { end("refused"); return; }
        ws.onmessage = event => { end(event.data); ws.close(); };
        ws.onclose = () => end("refused");
    }));
    const read = (url, options) => within(
        fetch(url, {credentials: "include", ...options}).then(answer => answer.text()).catch(() => "refused"));
    const events = url => within(new Promise(end => {
        const source = new EventSource(url, {withCredentials: true});
        source.onopen = () => { end("opened"); source.close(); };
        source.onmessage = event => end(event.data);
        source.onerror = () => { end("refused"); source.close(); };
    }));
    const ws = site.replace("http", "ws");
    const withTicket = async () => {
        const text = await read(site + "/ticket", {method: "POST"});
        let ticket;
        try { ticket = JSON.parse(text).ticket; } catch (error) { return text; }
        return await socket(ws + "/ticket-chat?ticket=" + ticket);
    };
    const all = {
        chat: socket(ws + "/chat"),
        partner: socket(ws + "/partner"),
        get: read(site + "/me"),
        post: read(site + "/me", {method: "POST", body: "a=b", headers: {"Content-Type": "text/plain"}}),
        json: read(site + "/me", {method: "POST", body: "{}", headers: {"Content-Type": "application/json"}}),
        opaque: read(site + "/me", {mode: "no-cors"}),
        ticket: withTicket(),
        events: events(site + "/me"),
    };
    const found = {};
    for (const [name, promise] of Object.entries(all)) found[name] = await promise;
    return found;
}
"""
_IN_A_WORKER = """
site => new Promise(end => {
    const code = CODE;
    const worker = new Worker(URL.createObjectURL(new Blob([code], {type: "text/javascript"})));
    worker.onmessage = event => end(event.data);
    worker.postMessage(site);
})
"""
IN_A_WORKER = _IN_A_WORKER.replace(
    "CODE", json.dumps(f"onmessage = async event => postMessage(await ({ATTACK.strip()})(event.data))")
)
#: Loads a response as a script and as a frame.
ELEMENTS = """
async site => {
    const load = name => new Promise(end => {
        const element = document.createElement(name);
        element.src = site + "/me";
        element.onload = element.onerror = () => end();
        document.body.append(element);
    });
    const messages = [];
    onerror = message => messages.push(message);
    await load("script");
    await load("iframe");
    let text = "refused";
    try { text = document.querySelector("iframe").contentDocument.body.innerText; } catch (error) {}
    return [messages.filter(message => message.includes("ana")), text];
}
"""


class Attacker(BaseHTTPRequestHandler):
    """Serves a page under every name, and redirects."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        redirect = re.fullmatch(r"/redirect/(\d+)/(.*)", self.path)
        if redirect is None:
            body = b"<!doctype html><title>Another site</title>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
        else:
            times, target, body = int(redirect[1]), redirect[2], b""
            self.send_response(307)
            self.send_header("Location", f"/redirect/{times - 1}/{target}" if times else target)
            self.send_header("Access-Control-Allow-Origin", self.headers.get("Origin", "*"))
            self.send_header("Access-Control-Allow-Credentials", "true")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def attacker() -> Iterator[int]:
    """Run the server of the other sites; yield its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Attacker) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class Sites:
    """The site, the other sites, and a browser whose user is known to the site.

    Attributes:
        site: the origin of the site.
        secure: its origin over TLS.
        evil: the port of the other sites.
    """

    def __init__(self, context: Any, program: Program, evil: int) -> None:
        self.program, self.evil = program, evil
        self.port = program.port
        self.secure_port = int(program.until(r"https://[^ ]+:(\d+)")[1])
        self.site, self.secure = f"http://localhost:{self.port}", f"https://localhost:{self.secure_port}"
        self.page = context.pages[0]
        context.add_cookies(
            [
                {"name": "user", "value": "ana", "domain": host, "path": "/", "secure": True, "sameSite": "None"}
                for host in ("localhost", "127.0.0.1", "rebound.example")
            ]
        )

    def open(self, url: str) -> None:
        """Open a page, again if another program has changed the network interfaces of the machine meanwhile."""
        for _ in range(5):
            try:
                self.page.goto(url)
            except sync_api.Error as exc:
                if "ERR_NETWORK_CHANGED" not in str(exc):
                    raise
            else:
                return
        pytest.fail("the network changes all the time")

    def attack(self, url: str, site: str | None = None, script: str = ATTACK) -> dict[str, str]:
        """Open a page, attack the site from it, and return what the page has found."""
        self.open(url)
        found: dict[str, str] = self.page.evaluate(script, site or self.site)
        return found

    def attack_from_frame(self, url: str, attributes: str) -> dict[str, str]:
        """Attack the site from a frame of a page."""
        self.open(url)
        self.page.evaluate(f"document.body.innerHTML = `<iframe {attributes}></iframe>`")
        frame = self.page.query_selector("iframe").content_frame()
        frame.wait_for_load_state()
        found: dict[str, str] = frame.evaluate(ATTACK, self.site)
        return found

    def attack_from_fake(self, url: str, site: str) -> dict[str, str]:
        """Attack the site from a page whose content comes from another machine."""
        self.page.route(url, lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
        try:
            return self.attack(url, site)
        finally:
            self.page.unroute(url)


def check_refused(found: dict[str, str], **others: str) -> None:
    """Check that a page has opened and read nothing, apart from some names.

    A response without CORS is empty for a page that asks for it in spite of that.
    """
    assert found.pop("opaque") in ("", "refused")
    assert found == {**dict.fromkeys(found, "refused"), **others}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with a profile that allows what many browsers do: to send cookies with requests of all sites."""
    program = find_program("chromium", "chromium", "chromium-browser", "google-chrome")
    profile = tmp_path_factory.mktemp("profile")
    (profile / "Default").mkdir()
    preferences = {"profile": {"cookie_controls_mode": 0, "block_third_party_cookies": False}}
    (profile / "Default" / "Preferences").write_text(json.dumps(preferences))
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            args=[*ARGUMENTS, RESOLVER],
            ignore_https_errors=True,
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def sites(browser: Any) -> Iterator[Sites]:
    with attacker() as evil, Program(SITE.format(port=evil)) as program:
        yield Sites(browser, program, evil)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_pages_of_the_site_can_do_everything(sites: Sites, host: str) -> None:
    page = f"http://{host}:{sites.port}"
    found = sites.attack(f"{page}/", page)
    assert found["chat"] == found["ticket"] == "secret of ana"
    assert json.loads(found["get"]) == json.loads(found["post"]) == json.loads(found["json"]) == {"secret": "ana"}
    assert found["partner"] == "refused"


def test_the_pages_of_the_site_over_tls(sites: Sites) -> None:
    found = sites.attack(f"{sites.secure}/", sites.secure)
    assert found["chat"] == found["ticket"] == "secret of ana"


def test_the_two_names_of_this_machine_are_one_host_for_sockets_only(sites: Sites) -> None:
    check_refused(sites.attack(f"http://127.0.0.1:{sites.port}/"), chat="secret of ana")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "sub.localhost",
        "evil.example",
        "localhost.evil.example",
        "evil-localhost",
        "localhost.localhost",
        "xn--lcalhost-n1a",
        "sub.parent.example",
        "parent.example.evil.example",
        "evilparent.example",
        "parent.example.",
    ],
)
def test_pages_of_other_sites(sites: Sites, host: str) -> None:
    start = len(sites.program.output)
    check_refused(sites.attack(f"http://{host}:{sites.evil}/"))
    urllib.request.urlopen(f"http://localhost:{sites.port}/mark").close()
    sites.program.until("mark", start)  # all that was written before is read
    asked = re.findall(r"asked /me (\S+) (\w+)", sites.program.output[start:])
    assert {has_cookie for _, has_cookie in asked} == {"True"}, "the browser sends the cookie with every request"


def test_a_listed_site_can_use_its_route_only(sites: Sites) -> None:
    check_refused(sites.attack(f"http://parent.example:{sites.evil}/"), partner="secret of ana")


def test_a_page_over_tls_of_the_same_host(sites: Sites) -> None:
    """The ports differ, and so the origins."""
    check_refused(sites.attack(f"{sites.secure}/"))
    check_refused(sites.attack(f"http://localhost:{sites.port}/", sites.secure))


def test_a_plain_page_cannot_use_the_encrypted_port(sites: Sites) -> None:
    """An attacker in the network can make such a page; nothing listens for plain HTTP on this port."""
    check_refused(sites.attack_from_fake(f"http://localhost:{sites.secure_port}/", sites.secure))


def test_a_rebound_name(sites: Sites) -> None:
    """The page came from another machine, and now its name is that of this one: page and site have one origin."""
    url = f"http://rebound.example:{sites.port}"
    found = sites.attack_from_fake(f"{url}/", url)
    assert found["chat"] == found["partner"] == found["events"] == "refused"
    assert not any("secret" in text or "ana" in text for text in found.values())


@pytest.mark.parametrize("kind", ["file", "data", "blank"])
def test_pages_without_an_origin(sites: Sites, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("<!doctype html><title>A file</title>")
    check_refused(
        sites.attack(
            {"file": file.as_uri(), "data": "data:text/html,<title>data</title>", "blank": "about:blank"}[kind]
        )
    )


@pytest.mark.parametrize(
    "attributes", ["sandbox=allow-scripts srcdoc=x", "src=data:text/html,x"], ids=["sandbox", "data"]
)
@pytest.mark.parametrize("page", ["evil", "site"])
def test_frames_without_an_origin(sites: Sites, page: str, attributes: str) -> None:
    url = f"{sites.site}/" if page == "site" else f"http://evil.example:{sites.evil}/"
    check_refused(sites.attack_from_frame(url, attributes))


def test_a_worker_of_another_site(sites: Sites) -> None:
    check_refused(sites.attack(f"http://evil.example:{sites.evil}/", script=IN_A_WORKER))
    assert sites.attack(f"{sites.site}/", sites.site, IN_A_WORKER)["chat"] == "secret of ana"


@pytest.mark.parametrize("times", [0, 3])
def test_redirects_to_the_site(sites: Sites, times: int) -> None:
    evil = f"http://evil.example:{sites.evil}"
    check_refused(sites.attack(f"{evil}/", f"{evil}/redirect/{times}/{sites.site}"))


def test_elements_of_another_page_reveal_nothing(sites: Sites) -> None:
    sites.open(f"http://evil.example:{sites.evil}/")
    assert sites.page.evaluate(ELEMENTS, sites.site) == [[], "refused"]
