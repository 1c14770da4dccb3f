"""IpFilter: lists of allowed and denied addresses, and files that are read again when they change."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp import App, EchoServer
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.middleware import address_file
from pywsapp.middleware.ip_filter import IpFilter

Replace = Callable[[str], None]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(address_file, "CHECK_SECONDS", 0.0)
    return tmp_path / "addresses.txt"


@pytest.fixture
def replace(path: Path) -> Replace:
    def write(text: str) -> None:
        path.with_suffix(".new").write_text(text)
        os.replace(path.with_suffix(".new"), path)

    return write


async def status(guarded: IpFilter, address: str) -> int:
    answer: Any = None
    try:
        answer = guarded.check(Request(remote_address=address))
        if answer is not None:
            await answer
    except Refuse as refuse:
        return refuse.status
    return 101


@pytest.mark.parametrize(
    ("allow", "deny", "allowed", "refused"),
    [
        (None, [], ["192.0.2.1", "::1", ""], []),
        (None, ["192.0.2.0/24"], ["192.0.3.1", ""], ["192.0.2.1", "::ffff:192.0.2.1"]),
        (["192.0.2.0/24"], [], ["192.0.2.1"], ["192.0.3.1", "::1", "", "no address"]),
        (["192.0.2.0/24"], ["192.0.2.1"], ["192.0.2.2"], ["192.0.2.1", "192.0.3.1"]),
        ([], [], [], ["192.0.2.1", ""]),
    ],
    ids=["none", "deny", "allow", "both", "an empty list allows nothing"],
)
def test_deny_comes_before_allow(
    allow: list[str] | None, deny: list[str], allowed: list[str], refused: list[str]
) -> None:
    guarded = IpFilter(EchoServer(), allow=allow, deny=deny)
    assert [address for address in [*allowed, *refused] if guarded.is_allowed(address)] == allowed


def test_handshakes_and_plain_requests_are_refused_alike() -> None:
    guarded = IpFilter(EchoServer(), deny=["192.0.2.1"])
    for ask in (guarded.on_handshake, guarded.on_request):
        with pytest.raises(Refuse) as caught:
            ask(Request(remote_address="192.0.2.1"))
        assert caught.value.status == 403


def test_a_whole_app_can_be_guarded() -> None:
    inner, outer = App(), App()
    inner.http("/page", lambda request: Response("a page"))
    outer.mount("/", IpFilter(inner, deny=["192.0.2.1"]))
    with pytest.raises(Refuse):
        outer.router.on_request(Request(path="/page", host="localhost", remote_address="192.0.2.1"))
    outer.router.on_request(Request(path="/page", host="localhost", remote_address="192.0.2.2"))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["allow_file", "deny_file"])
async def test_a_file_is_read_again_when_it_changes(kind: str, path: Path, replace: Replace) -> None:
    listed, other = (101, 403) if kind == "allow_file" else (403, 101)
    replace("192.0.2.1\n")
    guarded = IpFilter(EchoServer(), **{kind: path})  # type: ignore[arg-type]
    assert await status(guarded, "192.0.2.1") == listed
    assert await status(guarded, "2001:db8::1") == other
    replace("# only this network\n\n  2001:db8::/32  # a comment\r\n")
    assert await status(guarded, "192.0.2.1") == other
    assert await status(guarded, "2001:db8::1") == listed


@pytest.mark.anyio
async def test_a_list_and_a_file_add_up(path: Path, replace: Replace) -> None:
    replace("192.0.2.1")
    guarded = IpFilter(EchoServer(), allow=["192.0.2.2"], allow_file=path)
    assert [await status(guarded, f"192.0.2.{number}") for number in (1, 2, 3)] == [101, 101, 403]


@pytest.mark.anyio
async def test_a_mistake_in_a_changed_file_keeps_the_list_from_before(
    path: Path, replace: Replace, caplog: pytest.LogCaptureFixture
) -> None:
    replace("192.0.2.1")
    guarded = IpFilter(EchoServer(), deny_file=path)
    replace("192.0.2.2\nlocalhost\n")
    assert await status(guarded, "192.0.2.1") == 403
    assert await status(guarded, "192.0.2.2") == 101
    path.unlink()
    assert await status(guarded, "192.0.2.1") == 403
    assert await status(guarded, "192.0.2.1") == 403
    assert [message.partition("; ")[0] for message in caplog.messages] == [
        f"line 2 of {path}: 'localhost' is not an IP address or network",
        f"the file of addresses {path} cannot be read: No such file or directory",
    ]
    replace("192.0.2.2")
    assert await status(guarded, "192.0.2.2") == 403


def test_a_line_that_is_no_address_is_shown_in_part(path: Path) -> None:
    path.write_text("192.0.2.1\n" + "x" * 1_000_000)
    with pytest.raises(ConfigurationError, match=r"'x{50,}\.\.\. is not an IP address or network") as caught:
        IpFilter(EchoServer(), deny_file=path)
    assert len(str(caught.value)) < 200 + len(str(path))


@pytest.mark.anyio
async def test_one_of_many_requests_reads_a_changed_file(
    path: Path, replace: Replace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    replace("192.0.2.1")
    guarded = IpFilter(EchoServer(), deny_file=path)
    replace("192.0.2.2")
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(status, guarded, "192.0.2.3")
    assert len(caplog.messages) == 1


def test_the_file_is_looked_at_once_a_second(tmp_path: Path) -> None:
    path = tmp_path / "addresses.txt"
    path.write_text("192.0.2.1")
    guarded = IpFilter(EchoServer(), deny_file=path)
    path.write_text("192.0.2.100")
    assert guarded.check(Request(remote_address="192.0.2.100")) is None


def test_a_missing_or_wrong_file_is_a_mistake_at_start(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"addresses\.txt cannot be read: No such file"):
        IpFilter(EchoServer(), deny_file=path)
    path.write_text("192.0.2.1\n\nexample.com")
    with pytest.raises(ConfigurationError, match=r"line 3 of .*addresses\.txt: 'example\.com' is not an IP address"):
        IpFilter(EchoServer(), allow_file=path)


def test_a_file_has_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_file, "MAX_SIZE", 20)
    path.write_text("192.0.2.1\n192.0.2.2\n")
    IpFilter(EchoServer(), deny_file=path)
    path.write_text("192.0.2.1\n192.0.2.2\n#")
    with pytest.raises(ConfigurationError, match="more than 20 bytes"):
        IpFilter(EchoServer(), deny_file=path)


@pytest.mark.parametrize("name", ["allow", "deny"])
def test_a_str_is_no_list(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} is a list: write \['192\.0\.2\.1'\]"):
        IpFilter(EchoServer(), **{name: "192.0.2.1"})


@given(content=st.binary(max_size=200))
def test_any_content_is_read_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    with suppress(ConfigurationError):
        IpFilter(EchoServer(), deny_file=path)
