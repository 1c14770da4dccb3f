"""A chat with moderation: roles, a word filter, slow mode, reports, and deleting, muting and banning.

Run:   python moderated_chat.py [PORT]
Try:   open http://localhost:8080/#ana-token, #ben-token and #mia-token in three windows; Mia is a moderator. Write as
       Ana and Ben, report a message, and see what Mia can do with it. Ban Ben for a minute, and reload his page.

The server decides everything; the page only hides the buttons that a user may not use. Messages are kept here, and not
in the history of the topic, so a newcomer does not get one that was deleted. Each decision is a line of the log. Run
this program in one process; with several, mutes and bans belong in a database.
"""

import itertools
import json
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from pywsapp import App, CallError, Connection, RateLimit, Response, Topic, TopicComponent
from pywsapp.exceptions import InvalidCredentials

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
TOKENS = {"ana-token": "Ana", "ben-token": "Ben", "mia-token": "Mia"}  # in a product: random tokens, which expire
MODERATORS = {"Mia"}
BAD_WORDS = re.compile(r"\b(darn|heck)\b", re.IGNORECASE)
SLOW_SECONDS = int(os.environ.get("SLOW_SECONDS", "2"))  # the pause between two messages of a user
MAX_LENGTH, MAX_MESSAGES, MAX_REPORTS = 300, 100, 100
audit = logging.getLogger("audit")

ids = itertools.count(1)
messages: dict[int, dict[str, Any]] = {}  # by their ids
reports: dict[int, dict[str, Any]] = {}  # by the ids of the messages
last: dict[str, float] = {}  # when each user has written
muted: dict[str, float] = {}  # until when
banned: dict[str, float] = {}


def minutes_left(until: dict[str, float], user: str) -> int:
    return max(0, int((until.get(user, 0) - time.time()) / 60 + 0.999))


class Chat(TopicComponent):
    def authenticate_token(self, token: str) -> str:
        if (user := TOKENS.get(token)) is None:
            raise InvalidCredentials("There is no such token; open the page with one: /#ana-token")
        if minutes := minutes_left(banned, user):
            raise InvalidCredentials(f"You are banned for {minutes} min.")
        return user

    def authorize(self, conn: Connection, action: str, topic: str) -> bool:
        if topic == "reports":
            return action == "subscribe" and conn.user in MODERATORS
        return topic == "chat" and action in ("subscribe", "publish") and conn.user is not None

    def on_publish(self, conn: Connection, topic: Topic, message: Any) -> dict[str, Any]:
        if not isinstance(message, str) or not 0 < len(message.strip()) <= MAX_LENGTH:
            raise CallError("invalid", f"A message has 1 to {MAX_LENGTH} characters.")
        if minutes := minutes_left(muted, conn.user):
            raise CallError("muted", f"You are muted for {minutes} min.")
        if time.time() < last.get(conn.user, 0) + SLOW_SECONDS and conn.user not in MODERATORS:
            raise CallError("slow", f"Slow mode: one message in {SLOW_SECONDS} seconds.")
        if BAD_WORDS.search(message):
            audit.info("the filter has refused a message of %s", conn.user)
            raise CallError("refused", "Please write it in other words.")
        last[conn.user] = time.time()
        return {"id": next(ids), "from": conn.user, "text": message.strip()}

    def on_call(self, conn: Connection, method: str, params: Any) -> Any:
        is_moderator = conn.user in MODERATORS
        match method, params:
            case "chat", _:
                return {"messages": [*messages.values()], "reports": [*reports.values()] if is_moderator else None}
            case "report", {"id": int(id)}:
                if id in messages and id not in reports and len(reports) < MAX_REPORTS:
                    reports[id] = {**messages[id], "by": conn.user}
                    app.topic("reports").broadcast(reports[id])
                    audit.info("%s: report message %d", conn.user, id)
            case (("delete" | "dismiss" | "mute" | "ban"), _) if not is_moderator:
                raise CallError("not_allowed", "Only moderators may do this.")
            case (("delete" | "dismiss"), {"id": int(id)}):
                if reports.pop(id, {}):
                    app.topic("reports").broadcast({"closed": id})
                if method == "delete" and messages.pop(id, {}):
                    app.topic("chat").broadcast({"deleted": id})
                audit.info("%s: %s message %d", conn.user, method, id)
            case (("mute" | "ban"), {"user": str(user), "minutes": int(minutes)}) if 0 <= minutes <= 24 * 60:
                self.restrict(conn.user, method, user, minutes)
            case _:
                return super().on_call(conn, method, params)
        return None

    def restrict(self, moderator: str, method: str, user: str, minutes: int) -> None:
        """Mute or ban a user; 0 minutes end it."""
        if user not in TOKENS.values() or user in MODERATORS:
            raise CallError("invalid", "There is no such user.")
        (muted if method == "mute" else banned)[user] = time.time() + minutes * 60
        if method == "ban" and minutes:
            app.users[user].disconnect(reason=f"You are banned for {minutes} min.")
        audit.info("%s: %s %s for %d min", moderator, method, user, minutes)


app = App("localhost", 8080)
app.route("/live", RateLimit(Chat(), messages_per_second=20, per="address"))
app.route_client()
app.http("/", lambda request: Response.html(PAGE))


@app.on_broadcast("chat")
def keep(topic: Topic, message: str | bytes) -> None:
    """Keep a message; a message that a page repeats after a lost answer comes here once."""
    if "text" in (published := json.loads(message)):
        messages[published["id"]] = published
        if len(messages) > MAX_MESSAGES:
            del messages[min(messages)]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
