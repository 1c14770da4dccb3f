"""A login with a session: the page logs a user in, and the WebSocket knows who it is.

Run `python sessions.py`, open http://localhost:8080/, and log in. Reload the page: the number of visits is in the
session. Log out: the WebSocket is refused with 401. With `session_store="redis://localhost"` the sessions outlive the
program, and several servers share them.
"""

import sys
from urllib.parse import parse_qs

from pywsapp import App, Connection, MessageComponent, Refuse, Request, Response

FORM = '<form action="/login" method="post">Your name: <input name="name" autofocus><button>Log in</button></form>'
PAGE = """
<p id="text"></p>
<form action="/logout" method="post"><button>Log out</button></form>
<script>
    const socket = new WebSocket(location.href.replace("http", "ws") + "hello");
    socket.onmessage = event => document.getElementById("text").textContent = event.data;
</script>
"""


class Hello(MessageComponent):
    """Greets the user of the session."""

    def on_handshake(self, request: Request) -> None:
        if "user" not in request.session:
            raise Refuse(401, body="log in first")
        request.session["visits"] = request.session.get("visits", 0) + 1

    def on_open(self, conn: Connection) -> None:
        conn.send(f"hello {conn.session['user']}, this is visit {conn.session['visits']}")


app = App("localhost", 8080, session_store="memory")
app.route("/hello", Hello())


@app.http("/")
def page(request: Request) -> Response:
    return Response.html("<!doctype html><title>Sessions</title>" + (PAGE if "user" in request.session else FORM))


@app.http("/login", methods=["POST"])
async def login(request: Request) -> None:
    fields = parse_qs((await request.read()).decode())
    await request.session.rotate()  # the old id does not get the rights of this user
    request.session["user"] = fields.get("name", ["stranger"])[0]  # a real program checks a password
    raise Refuse(303, {"Location": "/"})


@app.http("/logout", methods=["POST"])
async def logout(request: Request) -> None:
    await request.session.destroy()
    raise Refuse(303, {"Location": "/"})


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
