from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import GUARD, until_blocked

from pywsapp.component import MessageComponent, in_thread
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.routing.router import Router
from pywsapp.routing.static import StaticFolder

SECRET = b"outside of the folder"
BIG = bytes(range(256)) * 1000


def fill(top: Path) -> Path:
    """Make a folder to serve, `public`, next to files that must not be served."""
    public = top / "public"
    (public / "sub" / "deep").mkdir(parents=True)
    (public / "empty").mkdir()
    (public / ".git").mkdir()
    (public / ".git" / "config").write_bytes(SECRET)
    (public / ".env").write_bytes(SECRET)
    (public / "index.html").write_text("<h1>home</h1>")
    (public / "app.js").write_text("let a = 'é'", "utf-8")
    (public / "big.bin").write_bytes(BIG)
    (public / "zero.txt").write_bytes(b"")
    (public / "a b:c?.txt").write_text("odd name")
    (public / "sub" / "index.html").write_text("<h1>sub</h1>")
    (public / "sub" / "deep" / "page.html").write_text("deep")
    (top / "secret.txt").write_bytes(SECRET)
    (top / "public-too").mkdir()
    (top / "public-too" / "secret.txt").write_bytes(SECRET)
    (public / "out.txt").symlink_to(top / "secret.txt")
    (public / "out").symlink_to(top)
    (public / "sibling").symlink_to(top / "public-too")
    (public / "loop").symlink_to("loop")
    (public / "dangling").symlink_to("nowhere")
    (public / "in.js").symlink_to("app.js")
    (public / "data").symlink_to(public / "sub")
    os.mkfifo(public / "pipe")
    return public


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as top:
        yield fill(Path(top))


async def ask(component: MessageComponent, path: str, *, method: str = "GET", **fields: str) -> Response:
    headers = [(name.replace("_", "-"), value) for name, value in fields.items()]
    answer = component.on_request(Request(method=method, path=path, headers=headers))
    return answer if isinstance(answer, Response) else await answer


async def status(component: MessageComponent, path: str, **others: str) -> int:
    try:
        return (await ask(component, path, **others)).status
    except Refuse as refuse:
        return refuse.status


async def body(response: Response) -> bytes:
    if isinstance(response.body, bytes):
        return response.body
    return b"".join([piece async for piece in response.body])


def headers(response: Response) -> dict[str, str]:
    return dict(response.headers)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_small_file_is_sent_whole(public: Path) -> None:
    response = await ask(StaticFolder(public), "/app.js")
    assert (response.status, response.body) == (200, "let a = 'é'".encode())
    found = headers(response)
    assert found["Content-Type"] == "text/javascript; charset=utf-8"
    assert found["X-Content-Type-Options"] == "nosniff"
    assert found["Cache-Control"] == "no-cache"
    assert found["ETag"].startswith('W/"')
    assert found["Last-Modified"] == formatdate((public / "app.js").stat().st_mtime, usegmt=True)


@pytest.mark.anyio
async def test_a_large_file_is_sent_in_pieces(public: Path) -> None:
    response = await ask(StaticFolder(public), "/big.bin")
    assert isinstance(response.body, AsyncIterator)
    assert response.content_length == len(BIG)
    pieces = [piece async for piece in response.body]
    assert b"".join(pieces) == BIG
    assert max(map(len, pieces)) == 64 * 1024
    assert [piece async for piece in response.body] == []


@pytest.mark.anyio
@pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1])
async def test_files_around_the_size_of_a_piece_are_whole(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    response = await ask(StaticFolder(tmp_path), "/file")
    assert response.content_length == size
    assert await body(response) == b"x" * size


@pytest.mark.anyio
async def test_a_file_that_grows_sends_no_more_than_was_announced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    response = await ask(StaticFolder(tmp_path), "/file")
    os.truncate(tmp_path / "file", 200_000)
    assert await body(response) == b"x" * 100_000


@pytest.mark.anyio
async def test_a_file_that_shrinks_breaks_off(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    response = await ask(StaticFolder(tmp_path), "/file")
    os.truncate(tmp_path / "file", 70_000)
    with pytest.raises(OSError, match="shorter"):
        await body(response)


@pytest.mark.anyio
@pytest.mark.parametrize("taken", [0, 1])
async def test_an_unfinished_body_leaves_no_file_open(public: Path, taken: int) -> None:
    response = await ask(StaticFolder(public), "/big.bin")
    body: Any = response.body
    for _ in range(taken):
        await body.__anext__()
    assert ("big.bin" in open_files()) == bool(taken)
    await body.aclose()
    assert "big.bin" not in open_files()


def open_files() -> set[str]:
    """Return the names of the open files of this process."""
    found = set()
    for number in os.listdir("/dev/fd"):
        with suppress(OSError):
            found.add(Path(os.readlink(f"/dev/fd/{number}")).name)
    return found


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.MJS", "text/javascript; charset=utf-8"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.webmanifest", "application/manifest+json; charset=utf-8"),
        ("a.svg", "image/svg+xml; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.ico", "image/x-icon"),
        ("a.wasm", "application/wasm"),
        ("a.woff2", "font/woff2"),
        ("a.tar.gz", "application/gzip"),
        ("a.svgz", "application/gzip"),
        ("a.json.br", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("data:text.html", "text/html; charset=utf-8"),
    ],
)
async def test_the_content_type_depends_on_the_name(tmp_path: Path, name: str, content_type: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert headers(await ask(StaticFolder(tmp_path), f"/{name}"))["Content-Type"] == content_type


@pytest.mark.anyio
async def test_odd_names_empty_files_and_links_inside_are_served(public: Path) -> None:
    folder = StaticFolder(public)
    assert await body(await ask(folder, "/a b:c?.txt")) == b"odd name"
    assert await body(await ask(folder, "/zero.txt")) == b""
    assert await body(await ask(folder, "/in.js")) == "let a = 'é'".encode()
    assert await body(await ask(folder, "/data/deep/page.html")) == b"deep"


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_folder_is_its_index(public: Path) -> None:
    folder = StaticFolder(public)
    for path in ("/", ""):
        assert await body(await ask(folder, path)) == b"<h1>home</h1>"
    response = await ask(folder, "/sub/")
    assert await body(response) == b"<h1>sub</h1>"
    assert headers(response)["Content-Type"] == "text/html; charset=utf-8"
    assert await body(await ask(StaticFolder(public, index="app.js"), "/")) == "let a = 'é'".encode()


@pytest.mark.anyio
async def test_a_folder_without_its_slash_is_redirected_relatively(public: Path) -> None:
    router = Router()
    router.mount("/files", StaticFolder(public))
    request = Request(path="/files/sub", query_string="v=1")
    answer = router.on_request(request)
    assert not isinstance(answer, Response)
    response = await answer
    assert response.status == 308
    assert headers(response)["Location"] == "sub/?v=1"


@pytest.mark.anyio
async def test_a_redirect_stays_on_its_host(tmp_path: Path) -> None:
    for name in ("evil.example", "http:evil", "a\r\nb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text("hi")
    folder = StaticFolder(tmp_path)
    assert headers(await ask(folder, "/evil.example"))["Location"] == "evil.example/"
    assert headers(await ask(folder, "/http:evil"))["Location"] == "http%3Aevil/"
    assert headers(await ask(folder, "/a\r\nb"))["Location"] == "a%0D%0Ab/"
    assert await status(folder, "//evil.example") == 404


@pytest.mark.anyio
async def test_a_folder_without_an_index_and_a_file_with_a_slash_are_404(public: Path) -> None:
    folder = StaticFolder(public)
    for path in ("/empty", "/empty/", "/app.js/", "/app.js/x"):
        assert await status(folder, path) == 404


@pytest.mark.anyio
async def test_the_folder_can_be_replaced(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text(name)
    current = tmp_path / "current"
    current.symlink_to("one")
    folder = StaticFolder(current)
    assert await body(await ask(folder, "/")) == b"one"
    current.unlink()
    current.symlink_to("two")
    assert await body(await ask(folder, "/")) == b"two"
    current.unlink()
    assert await status(folder, "/") == 404


def test_a_missing_folder_and_a_negative_time_are_refused(public: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        StaticFolder(public / "nowhere")
    with pytest.raises(ConfigurationError):
        StaticFolder(public / "app.js")
    with pytest.raises(ConfigurationError, match="cache_seconds"):
        StaticFolder(public, cache_seconds=-1)


# -- caching -----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_cache_seconds_become_max_age(public: Path) -> None:
    response = await ask(StaticFolder(public, cache_seconds=3600), "/app.js")
    assert headers(response)["Cache-Control"] == "public, max-age=3600"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{}", 304),
        ("*", 304),
        ('"{opaque}"', 304),
        ('"other", W/"a,b" ,{}', 304),
        ('"other"', 200),
        ("{opaque}", 200),
        ('"*"', 200),
        ('W/"{opaque}', 200),
        ("", 200),
    ],
)
async def test_if_none_match(public: Path, form: str, expected: int) -> None:
    folder = StaticFolder(public)
    etag = headers(await ask(folder, "/app.js"))["ETag"]
    response = await ask(folder, "/app.js", If_None_Match=form.format(etag, opaque=etag[3:-1]))
    assert response.status == expected
    if expected == 304:
        assert response.body == b""
        assert {"ETag", "Last-Modified", "Cache-Control"} <= set(headers(response))
        assert "Content-Type" not in headers(response)


@pytest.mark.anyio
async def test_if_none_match_in_several_lines(public: Path) -> None:
    folder = StaticFolder(public)
    etag = headers(await ask(folder, "/big.bin"))["ETag"]
    request = Request(path="/big.bin", headers=[("If-None-Match", '"a"'), ("If-None-Match", etag)])
    assert (await folder.on_request(request)).status == 304


@pytest.mark.anyio
async def test_a_changed_file_has_another_etag(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", StaticFolder(tmp_path)
    file.write_bytes(b"one")
    first = headers(await ask(folder, "/file"))["ETag"]
    os.utime(file, ns=(0, 1_000_000_001))
    second = headers(await ask(folder, "/file"))["ETag"]
    os.utime(file, ns=(0, 1_000_000_002))
    third = headers(await ask(folder, "/file"))["ETag"]
    assert len({first, second, third}) == 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("Sat, 01 Jan 2022 00:00:00 GMT", 304),
        ("Saturday, 01-Jan-22 00:00:00 GMT", 304),
        ("Sat Jan  1 00:00:00 2022", 304),
        ("Sun, 02 Jan 2022 00:00:00 GMT", 304),
        ("Fri, 31 Dec 2021 23:59:59 GMT", 200),
        ("Fri Dec 31 23:59:59 2021", 200),
        ("yesterday", 200),
        ("Sat, 01 Jan 999999999999 00:00:00 GMT", 200),
        ("", 200),
    ],
)
async def test_if_modified_since(tmp_path: Path, date: str, expected: int) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.utime(tmp_path / "file", (0, 1640995200.5))
    folder = StaticFolder(tmp_path)
    assert headers(await ask(folder, "/file"))["Last-Modified"] == "Sat, 01 Jan 2022 00:00:00 GMT"
    assert await status(folder, "/file", If_Modified_Since=date) == expected


@pytest.mark.anyio
async def test_if_none_match_goes_before_if_modified_since(public: Path) -> None:
    folder = StaticFolder(public)
    found = headers(await ask(folder, "/app.js"))
    changed = {"If_None_Match": '"other"', "If_Modified_Since": found["Last-Modified"]}
    assert await status(folder, "/app.js", **changed) == 200
    same = {"If_None_Match": found["ETag"], "If_Modified_Since": "Thu, 01 Jan 1970 00:00:00 GMT"}
    assert await status(folder, "/app.js", **same) == 304


@pytest.mark.anyio
async def test_last_modified_is_never_in_the_future(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.utime(tmp_path / "file", (0, time.time() + 86400))
    before = formatdate(time.time() + 3600, usegmt=True)
    assert await status(StaticFolder(tmp_path), "/file", If_Modified_Since=before) == 304


# -- what must not get out ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/sub/../app.js",
        "/./app.js",
        "//app.js",
        "/sub//index.html",
        "//etc/passwd",
        "/..\\secret.txt",
        "\\secret.txt",
        "/sub\\index.html",
        "/%2e%2e/secret.txt",
        "/.env",
        "/.git/config",
        "/.git/",
        "/...",
        "/app.js\0",
        "/app.js\0.html",
        "/\udcff",
        "/x\ud800",
        "/" + "a" * 300,
        "/" + "a/" * 5000,
        "/out.txt",
        "/out/secret.txt",
        "/out/public/app.js/",
        "/sibling/secret.txt",
        "/../public-too/secret.txt",
        "/loop",
        "/dangling",
        "/pipe",
        "/nothing",
        "C:/secret.txt",
    ],
)
async def test_other_paths_are_404(public: Path, path: str) -> None:
    folder = StaticFolder(public)
    with pytest.raises(Refuse) as caught:
        await ask(folder, path)
    assert caught.value.status == 404
    assert "\n" not in str(caught.value.body)


@pytest.mark.anyio
async def test_a_socket_is_404(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        assert await status(StaticFolder(tmp_path), "/sock") == 404


@pytest.mark.anyio
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_an_unreadable_file_is_404(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "file").chmod(0)
    assert await status(StaticFolder(tmp_path), "/file") == 404


@pytest.mark.anyio
async def test_the_root_of_the_file_system_can_be_served(public: Path) -> None:
    assert await body(await ask(StaticFolder("/"), f"{public}/app.js")) == (public / "app.js").read_bytes()


NAMES = ["", "/", "..", ".", "%2e%2e", "\\", "\0", "public", "sub", "out", "sibling", "data", "out.txt", "secret.txt"]
PATHS = st.lists(st.sampled_from([*NAMES, ".git", "config", ".env", "index.html", "app.js", "loop"]), max_size=6)


@given(path=PATHS.map("/".join) | st.text(), slash=st.booleans())
def test_no_byte_from_outside_is_ever_served(public: Path, path: str, slash: bool) -> None:
    async def attempt() -> None:
        folder, whole = StaticFolder(public), f"/{path}" if slash else path
        found = await status(folder, whole)
        assert found in (200, 308, 404)
        if found == 200:
            assert SECRET not in await body(await ask(folder, whole))

    anyio.run(attempt)


@given(st.text(max_size=100), st.text(max_size=100))
def test_any_conditions_get_an_answer(public: Path, tag: str, date: str) -> None:
    async def attempt() -> None:
        folder = StaticFolder(public)
        assert await status(folder, "/app.js", If_None_Match=tag) in (200, 304)
        assert await status(folder, "/app.js", If_Modified_Since=date) in (200, 304)

    anyio.run(attempt)


# -- the rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_other_methods_are_405(public: Path) -> None:
    with pytest.raises(Refuse) as caught:
        await ask(StaticFolder(public), "/app.js", method="POST")
    assert caught.value.status == 405
    assert caught.value.headers == (("Allow", "GET, HEAD"),)


@pytest.mark.anyio
async def test_head_is_answered_like_get(public: Path) -> None:
    folder = StaticFolder(public)
    for path in ("/app.js", "/big.bin"):
        got, head = await ask(folder, path), await ask(folder, path, method="HEAD")
        assert (got.status, got.headers, got.content_length) == (head.status, head.headers, head.content_length)


def test_a_websocket_is_404(public: Path) -> None:
    with pytest.raises(Refuse) as caught:
        StaticFolder(public).on_handshake(Request(path="/app.js"))
    assert caught.value.status == 404


@pytest.mark.anyio
async def test_the_file_system_is_used_in_a_thread(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    really = os.path.realpath

    def watched(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread())
        return really(*args, **kwargs)

    folder = StaticFolder(public)
    monkeypatch.setattr(os.path, "realpath", watched)
    await ask(folder, "/app.js")
    assert threads
    assert threading.current_thread() not in threads


@pytest.mark.anyio
async def test_files_do_not_wait_for_methods_in_threads(public: Path) -> None:
    class Slow(MessageComponent):
        @in_thread
        def on_message(self, conn: Any, message: Any) -> None:
            release.wait()

    release = threading.Event()
    slow: Any = Slow()
    number = int(anyio.to_thread.current_default_thread_limiter().total_tokens)
    async with anyio.create_task_group() as tasks:
        try:
            for _ in range(number):
                tasks.start_soon(slow.on_message, None, "")
            await until_blocked()
            with anyio.fail_after(GUARD):
                assert await body(await ask(StaticFolder(public), "/big.bin")) == BIG
        finally:
            release.set()
