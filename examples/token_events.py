"""The tokens of a language model as server-sent events, on a page that can be reloaded at any time.

Run:   python token_events.py [PORT]
Try:   open http://localhost:8080, ask something, and reload the page while the answer comes; open the same address in
       another window: both show the whole answer. Switch the network off and on: nothing is missing.
       curl -N http://localhost:8080/answers/ID shows the stream; ID is in the address of the page behind the #.

The page needs no code to come back: the browser connects again and names the last token that it has.
`live_answer.py` also survives a restart of the server. A function that makes up words stands in for the model.
"""

import secrets
import sys
from collections.abc import AsyncIterator

import anyio

from pywsapp import App, Request, Response

PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tokens</title>
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
  let events = null

  function follow() {
    if (events) { events.close() }
    answer.textContent = ""
    if (!location.hash) { return }
    events = new EventSource("/answers/" + location.hash.slice(1))
    events.onopen = () => { state.textContent = "" }
    events.addEventListener("token", event => {
      const {token, done} = JSON.parse(event.data)
      answer.textContent += token
      if (done) { events.close(); state.textContent = "done" }
    })
    events.addEventListener("lost", () => { answer.textContent = "(the beginning is not kept any more)\\n" })
    events.onerror = () => {
      state.textContent = events.readyState === EventSource.CLOSED ? "there is no such answer" : "connecting"
    }
  }

  document.forms[0].onsubmit = async event => {
    event.preventDefault()
    const response = await fetch("/ask", {method: "POST", body: event.target.question.value})
    location.hash = (await response.json()).answer
  }
  window.onhashchange = follow
  follow()
</script>
"""


async def ask_model(question: str) -> AsyncIterator[str]:
    """Yield the tokens of an answer, as the client of a language model does."""
    for number in range(1, 41):
        await anyio.sleep(0.05)
        yield f"word {number} about {question}\n"


async def write_answer(answer: str, question: str) -> None:
    """Broadcast an answer. It needs no connection: the page that has asked can be gone."""
    topic = app.topic(f"answer:{answer}")
    async for token in ask_model(question):
        await topic.broadcast({"token": token, "done": False})
    await topic.broadcast({"token": "", "done": True})


app = App("localhost", 8080)
app.history("answer:*", size=1000, seconds=600)
app.events("/answers/{answer}", topic="answer:{answer}", event="token", retry=1)


@app.http("/ask", methods=["POST"])
async def ask(request: Request) -> dict[str, str]:
    question = (await request.read(1000)).decode()
    answer = secrets.token_urlsafe(16)  # a client that knows it can read the answer
    app.start_soon(write_answer, answer, question)
    return {"answer": answer}


@app.http("/")
def page(request: Request) -> Response:
    return Response.html(PAGE)


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
