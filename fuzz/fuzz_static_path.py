"""Any path is refused, redirected to a path of the same server, or answered with the file in the folder that it names.

The names in a path are those of a file below the folder: never one outside of it, and no hidden one.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from harness import check_status, fuzz, instrumented

with instrumented():
    from pywsapp._protocol.http import parse_request
    from pywsapp.exceptions import Refuse
    from pywsapp.http import Request, Response
    from pywsapp.routing.static import StaticFolder

HERE = Path(tempfile.mkdtemp(prefix="pywsapp-fuzz-"))
atexit.register(shutil.rmtree, HERE, ignore_errors=True)
ROOT = HERE / "root"
FILES = ["index.html", "a.txt", "sub/index.html", "sub/b c.txt", "sub/deep/c.js", "ü.txt", "a%2fb", "con", "x.", "~"]
#: Files that no path may reach, outside of the folder or hidden; each contains this text.
SECRET = b"a secret"
for name in FILES:
    (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
    (ROOT / name).write_text(name, encoding="utf-8")
for hidden in ("../secret.txt", ".hidden", ".git/config", "sub/.env", "../root-2/secret.txt"):
    (ROOT / hidden).parent.mkdir(parents=True, exist_ok=True)
    (ROOT / hidden).write_bytes(SECRET)
(ROOT / "inside").symlink_to("sub")
(ROOT / "outside").symlink_to("../root-2")
(ROOT / "escape.txt").symlink_to("../secret.txt")
(ROOT / "loop").symlink_to("loop")
FOLDER = StaticFolder(ROOT)
STATUSES = {200, 304, 308}


def requests(data: bytes) -> list[Request]:
    """Return requests for a path as a client sends it, and for the same text as if it were decoded already."""
    found = [Request(path="/" + data.decode("utf-8", "surrogateescape")), Request(path=data.decode("latin-1"))]
    head = b"GET /" + data + b" HTTP/1.1\r\nHost: localhost"
    try:
        found.append(parse_request(head, max_headers=20, scheme="http", remote_address=""))
    except Refuse as exc:
        check_status(exc, 400, 414, 431, 505)
    return found


def check(request: Request) -> None:
    try:
        response = FOLDER._answer(request)
    except Refuse as exc:
        check_status(exc, 404)
        return
    assert response.status in STATUSES
    if response.status == 308:
        check_redirect(request, response)
        return
    body = response.body
    assert isinstance(body, bytes)
    assert SECRET not in body, "a file that must not be reachable"
    if response.status == 200:
        named = request.path.strip("/").replace("inside", "sub", 1)
        assert body.decode() in (named, f"{named}/index.html".lstrip("/"))


def check_redirect(request: Request, response: Response) -> None:
    """Check that a redirect adds a slash to the path, and does not name another server."""
    location = dict(response.headers)["Location"]
    assert location.isascii()
    assert location.isprintable()
    target = urlsplit(urljoin("http://server.example" + "/a/b", location))
    assert target.netloc == "server.example"
    assert unquote(target.path).endswith(f"{request.path.rpartition('/')[2]}/")


def one_input(data: bytes) -> None:
    """Run one input: a path."""
    for request in requests(data):
        check(request)


def seeds() -> list[bytes]:
    paths = [
        *("?", "sub", "sub/", "/", "sub//b", "inside/index.html", "inside", "outside/secret.txt", "escape.txt", "loop"),
        *("../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "sub/../../secret.txt", "..\\secret.txt", "./a.txt"),
        *("%252e%252e/secret.txt", "..%c0%afsecret.txt", "..%00/secret.txt", "a.txt%00.html", ".hidden", "sub/.env"),
        *(f"{ROOT}/a.txt"[1:], "C:/secret.txt", "a.txt/", "a.txt?x=..", "sub?a=b", "//evil.example/sub", "a" * 300),
        *("sub/b%20c.txt", "%C3%BC.txt", "a%252fb", "x./", "%FF", "index.html;x", "a.txt ", "A.TXT"),
    ]
    return [path.encode() for path in [*paths, *FILES]]


if __name__ == "__main__":
    fuzz(one_input, seeds())
