"""Users with API keys; tokens that expire are renewed over the connection, or the connection is closed with 4401.

Run:   python authenticated.py [PORT]
Try:   curl -H "X-API-Key: key-of-ana-0123456789" http://localhost:8080/token
       python client.py "ws://localhost:8080/chat?token=TOKEN"   with the token of the answer; it is good for a minute.
       Send "token TOKEN" with a newer token to stay; without a token the handshake is answered with status 401.
"""

import hmac
import sys
import time

from pywsapp import App, Connection, InvalidCredentials, MessageComponent, Request
from pywsapp.auth import (
    ApiKeyAuthenticator,
    Authenticated,
    BearerHeader,
    BearerSubprotocol,
    QueryToken,
    TokenAuthenticator,
)

SECRET = b"a secret of this example"  # yours comes from the environment
SECONDS = 60


def signed(text: str) -> str:
    return hmac.new(SECRET, text.encode(), "sha256").hexdigest()


def verify(token: str) -> Authenticated:
    text, _, signature = token.rpartition(".")
    user, _, expires_at = text.partition(".")
    if not hmac.compare_digest(signature.encode(), signed(text).encode()) or float(expires_at) <= time.time():
        raise InvalidCredentials("the token is not valid")
    return Authenticated(user, float(expires_at), subject=user)


tokens = TokenAuthenticator(verify, BearerHeader(), BearerSubprotocol(), QueryToken())
keys = ApiKeyAuthenticator({"Ana": "key-of-ana-0123456789", "Ben": "key-of-ben-0123456789"})


class Chat(MessageComponent):
    def on_open(self, conn: Connection) -> None:
        conn.send(f"welcome {conn.user}")

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        if isinstance(message, str) and message.startswith("token "):
            conn.refresh_user(tokens.verify(message.removeprefix("token ")))
            conn.send("renewed")
        else:
            conn.send(message)


app = App("localhost", 8080, authenticate=keys)
app.route("/chat", Chat(), authenticate=tokens)


@app.http("/token")
def token(request: Request) -> dict[str, str]:
    text = f"{request.user}.{int(time.time()) + SECONDS}"
    return {"token": f"{text}.{signed(text)}"}


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
