"""The answer of a language model, word by word, on a page that can be reloaded at any time.

Run:   python streamed_answer.py [PORT]
Try:   open http://localhost:8080, ask something, and reload the page while the answer comes; open the same address in
       another window: both show the whole answer. Switch the network off and on: nothing is missing.

A function that makes up words stands in for the model. The words are broadcast on a topic with a history, so a page
that comes back gets what it has missed. The task that asks the model goes on without any page.
"""

import json
import secrets
import sys
from collections.abc import AsyncIterator

import anyio

from pywsapp import App, Connection, MessageComponent, Request, Response, TopicError

PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Streamed answer</title>
<style>
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
  form { display: flex; gap: .5rem } input { flex: 1; font: inherit; padding: .3rem } button { font: inherit }
  #answer { white-space: pre-wrap } #state { color: #666 }
</style>
<form><input name="question" placeholder="Ask something" required><button>Ask</button></form>
<p id="answer"></p>
<p id="state"></p>
<script>
  const answer = document.getElementById("answer"), state = document.getElementById("state")
  let position = null, done = false

  function connect() {
    const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/answers")
    socket.onopen = () => { if (location.hash && !done) follow(socket) }
    socket.onclose = () => { state.textContent = "connecting"; setTimeout(connect, 500 + Math.random() * 2000) }
    socket.onmessage = event => {
      const message = JSON.parse(event.data)
      if (message.answer) { location.hash = message.answer; follow(socket) }
      else if (message.error) { state.textContent = message.error }
      else if (message.lost) { state.textContent = "the beginning of the answer is not kept any more" }
      else {
        position = message.position
        const part = JSON.parse(message.message)
        if (part.done) { done = true; state.textContent = "done" }
        else { answer.textContent += part.words; state.textContent = "" }
      }
    }
    document.forms[0].onsubmit = event => {
      event.preventDefault()
      answer.textContent = ""; position = null; done = false
      socket.send(JSON.stringify({ask: event.target.question.value}))
    }
  }

  function follow(socket) { socket.send(JSON.stringify({follow: location.hash.slice(1), position})) }

  connect()
</script>
"""


async def ask_model(question: str) -> AsyncIterator[str]:
    """Yield the words of an answer, as the client of a language model does."""
    for number in range(1, 51):
        await anyio.sleep(0.1)
        yield f"word {number} about {question}\n"


async def write_answer(answer: str, question: str) -> None:
    """Broadcast an answer. It needs no connection: the page that has asked can be gone."""
    topic = app.topic(f"answer:{answer}")
    async for words in ask_model(question):
        await topic.broadcast(json.dumps({"words": words}))
    await topic.broadcast(json.dumps({"done": True}))


class Answers(MessageComponent):
    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        request = json.loads(message)
        if "ask" in request:
            answer = secrets.token_urlsafe(16)  # who knows it can read the answer
            app.start_soon(write_answer, answer, str(request["ask"])[:200])
            conn.send(json.dumps({"answer": answer}))
        else:
            await app.topic(f"answer:{request['follow']}").recover(conn, request["position"])

    def on_error(self, conn: Connection, exc: Exception) -> None:
        if isinstance(exc, TopicError):  # an invalid name or position
            conn.send(json.dumps({"error": str(exc)}))
        else:
            super().on_error(conn, exc)


app = App("localhost", int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
app.route("/answers", Answers())
app.history("answer:*", size=1000, seconds=600)


@app.http("/")
def page(request: Request) -> Response:
    return Response.html(PAGE)


if __name__ == "__main__":
    app.run()
