"""The answer of a language model, token by token: it survives reloads of the page and restarts of the server.

Run:   python live_answer.py [PORT]
Try:   open http://localhost:8080, ask something, and reload the page while the answer comes. Kill the server and start
       it again: the answer goes on. Open the address with `?events`: the page then uses EventSource, not the client.

The topic of an answer keeps its tokens, so a page that comes back gets all of them. A restarted server publishes what
the database has, and goes on with the answers that are not finished. Each token has a number, so a page shows it once,
however often it comes. A function that makes up words stands in for the model. Run this program in one process.
"""

import json
import os
import secrets
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio

from pywsapp import App, Request, Response, TopicComponent, TopicRules

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
KEEP_SECONDS, MAX_TOKENS, MAX_ACTIVE = 3600, 2000, 20
TEXT = (
    "You have asked about {question}. A program cannot know everything about it, but it can write at a steady pace, "
    "and that is what matters here. Each of these words is stored before it is sent. When you reload this page, the "
    "words come again from the first one to the last one. When the server stops in the middle of a sentence, it reads "
    "what it has written, goes on where it was, and you do not have to ask again."
)


async def ask_model(question: str, begun: list[str]) -> AsyncIterator[str]:
    """Yield the tokens of an answer, as the client of a language model does, after those that the model has written."""
    tokens = [word + " " for word in TEXT.format(question=question).split()]
    for token in tokens[len(begun) :]:
        await anyio.sleep(0.04)
        yield token


# -- the answers -------------------------------------------------------------------------------------------------------

database = sqlite3.connect(os.environ.get("ANSWERS_DATABASE", "answers.db"), isolation_level=None)
database.executescript("""
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS answers (answer TEXT PRIMARY KEY, question TEXT, asked_at REAL, is_done INTEGER);
    CREATE TABLE IF NOT EXISTS tokens (answer TEXT, number INTEGER, token TEXT, PRIMARY KEY (answer, number));
""")


async def write_answer(answer: str, question: str, begun: list[str]) -> None:
    """Store and broadcast the tokens of an answer. It needs no connection: the page that has asked can be gone."""
    topic, number = app.topic(f"answer:{answer}"), len(begun)
    async for token in ask_model(question, begun):
        database.execute("INSERT INTO tokens VALUES (?, ?, ?)", (answer, number, token))
        await topic.broadcast({"number": number, "token": token})
        number += 1
    database.execute("UPDATE answers SET is_done = 1 WHERE answer = ?", (answer,))
    await topic.broadcast({"number": number, "token": None})


app = App(
    "localhost",
    8080,
    authorize=TopicRules(subscribe=["answer:*"], history=["answer:*"]),
)
app.history("answer:*", size=MAX_TOKENS, seconds=KEEP_SECONDS)
app.route("/live", TopicComponent())
app.route_client()
app.events("/answers/{answer}", topic="answer:{answer}", retry=1)
app.http("/", lambda request: Response.html(PAGE))


@app.on_startup
async def resume() -> None:
    """Publish the answers of an earlier run, and go on with those that are not finished."""
    forget_old_answers()
    for answer, question, is_done in database.execute("SELECT answer, question, is_done FROM answers").fetchall():
        found = database.execute("SELECT token FROM tokens WHERE answer = ? ORDER BY number", (answer,))
        tokens = [token for (token,) in found]
        for number, token in enumerate([*tokens, None] if is_done else tokens):
            await app.topic(f"answer:{answer}").broadcast({"number": number, "token": token})
        if not is_done:
            app.start_soon(write_answer, answer, question, tokens)


@app.every(60)
def forget_old_answers() -> None:
    """Delete what is as old as the oldest topic that is kept, so the database does not grow for ever."""
    old = (time.time() - KEEP_SECONDS,)
    database.execute("DELETE FROM tokens WHERE answer IN (SELECT answer FROM answers WHERE asked_at < ?)", old)
    database.execute("DELETE FROM answers WHERE asked_at < ?", old)


@app.on_shutdown
def close() -> None:
    database.close()


@app.http("/ask", methods=["POST"])
async def ask(request: Request) -> dict[str, str] | Response:
    if request.headers.get("content-type") != "application/json":  # pages of other origins cannot send this
        return Response(status=415)
    try:
        question = str(json.loads(await request.read(2000)))[:200]
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        return Response(status=400)
    active = database.execute("SELECT count(*) FROM answers WHERE is_done = 0").fetchone()[0]
    if active >= MAX_ACTIVE:
        return Response(status=503, headers={"Retry-After": "10"})
    answer = secrets.token_urlsafe(16)  # a client that knows it can read the answer
    database.execute("INSERT INTO answers VALUES (?, ?, ?, 0)", (answer, question, time.time()))
    app.start_soon(write_answer, answer, question, [])
    return {"answer": answer}


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
