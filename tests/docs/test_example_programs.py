"""The programs of the examples with pages, in memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import queue
import sys
import time
import tracemalloc
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from support.topics_peer import JSON, TopicsPeer, peer_of

from pywsapp.testing import TestClient

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def program(monkeypatch: pytest.MonkeyPatch, name: str, **settings: str) -> Any:
    """Return the module of an example; the settings are variables of its environment."""
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


# -- the game ----------------------------------------------------------------------------------------------------------


async def test_a_late_step_moves_players_for_its_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    game = program(monkeypatch, "game")
    async with TestClient(game.app) as client, peer_of(client) as peer, peer_of(client) as viewer:
        await peer.ask("subscribe", topic="arena", track="Ana")
        await viewer.ask("subscribe", topic="arena")
        await peer.ask("call", method="steer", params={"x": 1, "y": 0})
        [player] = game.arena.players.values()
        times, direction = [], player.direction
        for late in 0, 1:
            player.at, player.direction = [100.0, 500.0], direction
            game.arena.moved_at = time.monotonic() - late
            game.arena.step()
            player.direction = (0, 0)  # the App goes on with its steps
            found = await viewer.next()
            while found["data"]["players"][1] != round(player.at[0]):
                found = await viewer.next()
            times.append(found["data"]["time"])
        assert player.at[0] == pytest.approx(100 + game.SPEED, abs=20)
        assert times == sorted(times)


@pytest.mark.parametrize("params", [None, {}, {"x": 1}, {"x": "1", "y": 0}, {"x": math.nan, "y": 0}, {"x": 2, "y": 0}])
def test_no_player_is_faster_than_others(monkeypatch: pytest.MonkeyPatch, params: Any) -> None:
    game = program(monkeypatch, "game")
    assert math.hypot(*game.direction_of({"x": 1, "y": 1})) == pytest.approx(1)
    with pytest.raises(game.CallError):
        game.direction_of(params)


# -- the upload --------------------------------------------------------------------------------------------------------


async def uploaded(client: TestClient, content: bytes, *messages: bytes | str, name: str = "") -> dict[str, Any]:
    """Announce a file, send messages when the server is ready, and return how the upload ends."""
    async with client.connect("/upload") as ws:
        digest = hashlib.sha256(content).hexdigest()
        ws.send(json.dumps({"upload": name, "size": len(content), "sha256": digest}))
        while True:
            answer: dict[str, Any] = json.loads(await ws.receive())
            if answer["type"] == "ready":
                for message in messages:
                    ws.send(message)
            elif answer["type"] != "stored":
                return answer


async def test_a_directory_gets_no_more_than_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upload = program(monkeypatch, "upload", UPLOAD_DIRECTORY=str(tmp_path / "new"))
    monkeypatch.setattr(upload, "MAX_FILES", 2)
    async with TestClient(upload.app) as client:
        for _ in range(2):
            assert (await uploaded(client, PNG, PNG))["type"] == "done"
        assert "no space" in (await uploaded(client, PNG, PNG))["message"]
    assert len(list((tmp_path / "new").iterdir())) == 2


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ((PNG, "cancel"), "The upload was cancelled."),
        ((b"a text",), "This is no picture and no PDF."),
        ((b"GIF89a" * 2,), "The file has changed."),
    ],
    ids=["cancelled", "kind", "changed"],
)
async def test_an_upload_that_fails_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, messages: Any, text: str
) -> None:
    upload = program(monkeypatch, "upload", UPLOAD_DIRECTORY=str(tmp_path))
    async with TestClient(upload.app) as client:
        assert await uploaded(client, PNG + b"more", *messages, name="../x") == {"type": "failed", "message": text}
        assert list(tmp_path.iterdir()) == []
        async with client.connect("/upload") as ws:
            ws.send("[" * 60_000)
            await ws.assert_closed(1007)


async def test_only_parts_without_a_connection_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upload = program(monkeypatch, "upload", UPLOAD_DIRECTORY=str(tmp_path))
    for name in "old.part", "old.png":
        (tmp_path / name).write_bytes(PNG)
    async with TestClient(upload.app) as client, client.connect("/upload") as ws:
        ws.send(json.dumps({"upload": "", "size": 100, "sha256": ""}))
        part = json.loads(await ws.receive())["upload"] + ".part"
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        upload.uploads.remove_old_parts()
        assert {path.name for path in tmp_path.iterdir()} == {part, "old.png"}


def test_a_large_file_is_checked_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upload = program(monkeypatch, "upload", UPLOAD_DIRECTORY=str(tmp_path))
    content = PNG + bytes(8 * 1024 * 1024)
    part = tmp_path / "x.part"
    part.write_bytes(content)
    tracemalloc.start()
    try:
        found = upload.Upload(part, len(content), hashlib.sha256(content).hexdigest()).finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found["type"] == "done"
    assert peak < 1024 * 1024


# -- the dashboard -----------------------------------------------------------------------------------------------------


async def test_series_end_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = program(monkeypatch, "dashboard", SOURCE="http://localhost:1/")
    monkeypatch.setattr(dashboard, "MAX_SERIES", 2)
    board = dashboard.dashboard
    async with TestClient(dashboard.app) as client, peer_of(client) as peer:
        await peer.ask("subscribe", topic="series")
        for now, names in enumerate(["ab", "bc", "bcd"]):
            board.show(dict.fromkeys(names, (10.0 * now, True)), now)
        assert {name: list(one.past) for name, one in board.series.items()} == {
            "b": [(0, 0), (1, 10)],
            "c": [(1, 0), (2, 10)],
        }
        changes = [change["data"] for change in [await peer.next() for _ in range(6)] if change["data"]["series"]]
        assert [change["series"] for change in changes if change["value"] is None] == ["a"]
        assert [one["series"] for one in (await peer.ask("call", method="series"))["result"]] == ["b", "c"]


async def test_the_answers_of_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = program(monkeypatch, "dashboard", SOURCE="http://localhost:1", QUERIES="sum by (job) (up)")
    found = {"metric": {"__name__": "up", "job": "shop"}, "value": [0, "12.5"]}
    urls: list[str] = []

    def fetch(url: str) -> str:
        urls.append(url)
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": [found]}})

    monkeypatch.setattr(dashboard, "fetch", fetch)
    assert dashboard.read() == {"sum by (job) (up)\njob=shop": (12.5, False)}
    assert urls == ["http://localhost:1/api/v1/query?query=sum+by+%28job%29+%28up%29"]


async def test_a_source_that_answers_something_else_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dashboard = program(monkeypatch, "dashboard", SOURCE="http://localhost:1/", QUERIES="scalar(up)")
    monkeypatch.setattr(dashboard, "fetch", lambda url: '{"data": {"result": [0, "1"]}}')
    async with TestClient(dashboard.app):
        for _ in range(2):
            await dashboard.dashboard.update()
    assert dashboard.dashboard.problem == "The source does not answer."
    assert [record.levelname for record in caplog.records if record.name == "dashboard"] == ["WARNING"]


# -- the moderated chat ------------------------------------------------------------------------------------------------


async def test_a_ban_ends_all_tabs_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = program(monkeypatch, "moderated_chat")
    async with (
        TestClient(chat.app) as client,
        peer_of(client, connects=False) as mia,
        client.connect("/live", subprotocols=[JSON]) as first,
        client.connect("/live", subprotocols=[JSON]) as second,
        peer_of(client, connects=False) as again,
    ):
        await mia.connect(token="mia-token")
        for ws in first, second:
            await TopicsPeer(ws).connect(token="ben-token")
        await mia.ask("call", method="ban", params={"user": "Ben", "minutes": 1})
        for ws in first, second:
            while json.loads(await ws.receive())["type"] != "disconnect":
                pass
            await ws.assert_closed()
        assert await again.fails("connect", token="ben-token") == "unauthenticated"


async def test_slow_mode_counts_a_repeated_message_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = program(monkeypatch, "moderated_chat", SLOW_SECONDS="3600")
    async with TestClient(chat.app) as client:
        for key, reply in (("k", "ok"), ("k", "ok"), ("l", "error")):
            async with peer_of(client, connects=False) as ana:
                await ana.connect(token="ana-token")
                assert (await ana.ask("publish", topic="chat", data="hello", key=key))["type"] == reply
    assert [message["text"] for message in chat.messages.values()] == ["hello"]


async def test_users_cannot_moderate(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = program(monkeypatch, "moderated_chat")
    async with TestClient(chat.app) as client, peer_of(client, connects=False) as ben:
        await ben.connect(token="ben-token")
        assert await ben.fails("subscribe", topic="reports") == "not_allowed"
        assert await ben.fails("publish", topic="reports", data="x") == "not_allowed"
        assert await ben.fails("call", method="delete", params={"id": 1}) == "not_allowed"
        assert await ben.fails("call", method="ban", params={"user": "Ana", "minutes": 1}) == "not_allowed"
        assert (await ben.ask("call", method="chat"))["result"] == {"messages": [], "reports": None}


# -- the others --------------------------------------------------------------------------------------------------------


async def test_a_job_that_is_refused_leaves_no_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    job_progress = program(monkeypatch, "job_progress")
    job_progress.jobs = queue.Queue(1)
    job_progress.WORKERS = 0
    topics: list[str] = []
    job_progress.app.on_broadcast("job:*")(lambda topic, message: topics.append(topic.name))
    async with TestClient(job_progress.app) as client, peer_of(client) as peer:
        job = (await peer.ask("call", method="start"))["result"]
        assert await peer.fails("call", method="start") == "busy"
    assert topics == [f"job:{job}"]


async def test_answers_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    live_answer = program(monkeypatch, "live_answer", ANSWERS_DATABASE=str(tmp_path / "answers.db"))
    monkeypatch.setattr(live_answer, "MAX_ACTIVE", 1)
    async with TestClient(live_answer.app) as client:
        answers = [await client.post("/ask", json="tea") for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 503]
        live_answer.KEEP_SECONDS = -1
        live_answer.forget_old_answers()
        assert live_answer.database.execute("SELECT count(*) FROM answers").fetchone() == (0,)
