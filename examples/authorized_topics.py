"""Topics that need a permission: rules say which ones a client may join and write to; a moderator mutes users.

Run:   python authorized_topics.py [PORT]
Try:   python client.py "ws://localhost:8080/topics?name=Ana"   in several terminals, with several names, and send
       "join public:tea", "say public:tea hello", "say inbox:Ben psst", "join inbox:Ben" (which only Ben may);
       the user "moderator" sends "mute Ana": Ana can read on, and not write.
"""

import sys

from pywsapp import App, Connection, MessageComponent, Request, TopicRules


def name(request: Request) -> str | None:  # in a product: a session, a token or a key
    return request.query_params.get("name")


class Topics(MessageComponent):
    def __init__(self) -> None:
        self.muted: set[str] = set()

    def authorize(self, conn: Connection, action: str, topic: str) -> bool | None:
        return False if action == "publish" and conn.user in self.muted else None  # None: the rules of the App decide

    async def on_message(self, conn: Connection, message: str) -> None:
        command, _, rest = message.partition(" ")
        topic, _, text = rest.partition(" ")
        if command == "join" and await conn.may("subscribe", topic):
            await conn.subscribe(topic)
            conn.send(f"joined {topic}")
        elif command == "say" and await conn.may("publish", topic):
            await app.topic(topic).broadcast(f"{conn.user} on {topic}: {text}")
        elif command == "mute" and conn.user == "moderator":
            self.muted.add(topic)
            await app.users[topic].reauthorize()
            conn.send(f"muted {topic}")
        else:
            conn.send(f"not allowed: {message}")


app = App(
    "localhost",
    8080,
    authenticate=name,
    authorize=TopicRules(subscribe=["public:*", "inbox:{user}"], publish=["public:*", "inbox:*"]),
)
app.route("/topics", Topics())

if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
