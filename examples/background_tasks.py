"""Work beside the connections: a clock for all, a handler that waits, and a handler that blocks in a thread.

Run:   python background_tasks.py [PORT]
Try:   python client.py ws://localhost:8080/clock           the time, every second
       python client.py ws://localhost:8080/work 3          after three seconds: done
       python client.py ws://localhost:8080/sum "some text" its scrypt digest, computed in a thread
"""

import hashlib
import sys
import time

import anyio
import anyio.from_thread

from pywsapp import App, Connection, MessageComponent, in_thread


class Clock(MessageComponent):
    def on_open(self, conn: Connection) -> None:
        conn.subscribe("clock")


class Work(MessageComponent):
    async def on_message(self, conn: Connection, message: str) -> None:
        try:
            seconds = min(float(message), 10)
        except ValueError:
            conn.send("how many seconds?")
            return
        await anyio.sleep(seconds)  # other connections are served meanwhile
        conn.send("done")


class Sum(MessageComponent):
    @in_thread
    def on_message(self, conn: Connection, message: str | bytes) -> None:
        data = message.encode() if isinstance(message, str) else message
        digest = hashlib.scrypt(data, salt=b"", n=2**14, r=8, p=1, dklen=32).hex()  # slow on purpose
        anyio.from_thread.run_sync(conn.send, digest)


app = App("localhost", 8080)
app.route("/clock", Clock())
app.route("/work", Work())
app.route("/sum", Sum())


@app.every(1)
def tick() -> None:
    app.topic("clock").broadcast(time.strftime("%H:%M:%S"))


@app.on_startup
def open_resources() -> None:
    print("opening", flush=True)


@app.on_shutdown
async def close_resources() -> None:
    print(f"closing; {len(app.topic('clock'))} clients watch the clock", flush=True)


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
