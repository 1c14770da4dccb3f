"""The progress of jobs that other processes do, on a page that can be reloaded or closed meanwhile.

Run:   python job_progress.py [PORT]
Try:   open http://localhost:8080, start three jobs, and reload the page: the bars go on, and no result is missed.

Two worker processes take jobs from a queue, as those of Celery do, and publish on the topic of the job by signed HTTP
requests. With a broker, `Publisher("redis://...").publish(topic, text)` takes the place of `publish`. Each topic keeps
its messages for an hour, so a page that comes late sees the result. Run this program in one process: the queue is its
own.
"""

import hashlib
import hmac
import json
import multiprocessing
import os
import secrets
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pywsapp import App, CallError, Connection, RateLimit, Response, TopicComponent, TopicRules

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
STEPS, WORKERS, MAX_WAITING = 40, 2, 20
STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "0.1"))
PATH = "/publish"


# -- the worker processes ----------------------------------------------------------------------------------------------


def publish(port: int, key: str, topic: str, message: dict[str, Any], message_id: str) -> None:
    """Publish a message; if the server does not answer, again with the same id, so that it comes once."""
    body = json.dumps({"topic": topic, "text": json.dumps(message), "id": message_id}).encode()
    for attempt in range(10):
        time.sleep(attempt)
        now = int(time.time())
        signature = hmac.new(key.encode(), f"{now}\n{PATH}\n".encode() + body, hashlib.sha256).hexdigest()
        headers = {"X-Signature": f"t={now},v1={signature}"}
        try:
            urllib.request.urlopen(urllib.request.Request(f"http://localhost:{port}{PATH}", body, headers), timeout=10)
        except urllib.error.HTTPError as exc:
            if exc.code not in (503, 504):  # 503 and 504: the broker is not available
                raise
        except OSError:  # the server is not available
            pass
        else:
            return


def work(jobs: "multiprocessing.Queue[str]", port: int, key: str) -> None:
    """Do jobs until the server ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the server, which stops the workers
    threading.Thread(target=end_with_server, daemon=True).start()
    while True:
        job = jobs.get()
        for step in range(1, STEPS + 1):
            time.sleep(STEP_SECONDS)  # the work
            publish(port, key, f"job:{job}", {"state": "running", "done": step / STEPS}, f"{job}-{step}")
        publish(port, key, f"job:{job}", {"state": "finished", "result": f"{STEPS} pictures"}, f"{job}-result")


def end_with_server() -> None:
    """End this process when the server has ended, even if it was killed."""
    server = multiprocessing.parent_process()
    assert server is not None
    server.join()
    os._exit(1)


# -- the server --------------------------------------------------------------------------------------------------------


class Jobs(TopicComponent):
    """Starts jobs. The name of a job is a secret: a page that knows it sees the progress."""

    async def on_call(self, conn: Connection, method: str, params: Any) -> Any:
        if method != "start":
            return super().on_call(conn, method, params)
        if jobs.full():  # only this process fills the queue
            raise CallError("busy", "Too many jobs wait; try again later.")
        job = secrets.token_urlsafe(12)
        await app.topic(f"job:{job}").broadcast(json.dumps({"state": "waiting"}))
        jobs.put_nowait(job)
        return job


context = multiprocessing.get_context("spawn")
jobs: "multiprocessing.Queue[str]" = context.Queue(MAX_WAITING)
key = secrets.token_urlsafe(32)
app = App("localhost", 8080, authorize=TopicRules(subscribe=["job:*"], history=["job:*"]))
app.route("/live", RateLimit(Jobs(), messages_per_second=10))
app.route_client()
app.history("job:*", size=STEPS + 2, seconds=3600)
app.publish_endpoint(PATH, key=key)
app.http("/", lambda request: Response.html(PAGE))


@app.on_startup
def start_workers() -> None:
    for _ in range(WORKERS):
        context.Process(target=work, args=(jobs, app.port, key), daemon=True).start()


if __name__ == "__main__":  # the workers import this file, too
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
