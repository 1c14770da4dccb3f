"""Work beside the connections: a clock for all, a slow answer that holds up nobody, and a blocking one in a thread.

Run:  python background_tasks.py [PORT]
See:  python client.py ws://localhost:8080/clock         the time, every second
      python client.py ws://localhost:8080/work 3        after three seconds: done
      python client.py ws://localhost:8080/sum some text its scrypt digest, computed in a worker thread
"""

import hashlib
import sys
import time

import anyio
import anyio.from_thread

from pywsapp import App, Connection, MessageComponent, broadcast, in_thread


class Clock(MessageComponent):
    def __init__(self) -> None:
        self.watchers: set[Connection] = set()

    def on_open(self, conn: Connection) -> None:
        self.watchers.add(conn)

    def on_close(self, conn: Connection) -> None:
        self.watchers.discard(conn)

    def tick(self) -> None:
        broadcast(self.watchers, time.strftime("%H:%M:%S"))


class Work(MessageComponent):
    async def on_message(self, conn: Connection, message: str) -> None:
        try:
            seconds = min(float(message), 10)
        except ValueError:
            conn.send("how many seconds?")
            return
        await anyio.sleep(seconds)  # everybody else is served meanwhile
        conn.send("done")


class Sum(MessageComponent):
    @in_thread
    def on_message(self, conn: Connection, message: str | bytes) -> None:
        data = message.encode() if isinstance(message, str) else message
        digest = hashlib.scrypt(data, salt=b"", n=2**14, r=8, p=1, dklen=32).hex()  # slow on purpose
        anyio.from_thread.run_sync(conn.send, digest)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    app = App("localhost", port)
    clock = Clock()
    app.route("/clock", clock)
    app.route("/work", Work())
    app.route("/sum", Sum())
    app.every(1)(clock.tick)

    @app.on_startup
    def hello() -> None:
        print("opening the shop", flush=True)

    @app.on_shutdown
    async def goodbye() -> None:
        print(f"closing the shop; {len(clock.watchers)} still watch the clock", flush=True)

    app.run()
