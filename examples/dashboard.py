"""A live dashboard from Prometheus data: rates and values of any exporter, or the answers to queries.

Run:   python dashboard.py [PORT [URL [QUERY ...]]]
Try:   open http://localhost:8080 in two windows: the numbers are those of this server. Reload one, and watch the
       connections. For other numbers: python dashboard.py 8080 http://localhost:9100/metrics
       For a Prometheus server: python dashboard.py 8080 http://localhost:9090 up 'rate(requests_total[1m])'

The server asks the URL once in a second, however many pages there are, and broadcasts only what has changed. A slow
page gets only the newest value of each series (`newest`). Each page asks for the last values when it has subscribed.
Needs the extra `prometheus`.
"""

import json
import logging
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync
from prometheus_client.parser import text_string_to_metric_families

from pywsapp import App, Connection, Response, TopicComponent, TopicRules

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
URL = sys.argv[2] if len(sys.argv) > 2 else f"http://localhost:{PORT}/metrics"
QUERIES = sys.argv[3:]
SECONDS, KEPT, MAX_SERIES = 1, 120, 100
LEFT_OUT = re.compile("_(bucket|created|info)$")
Values = dict[str, tuple[float, bool]]  # by the names of series; True for a counter

series: dict[str, deque[tuple[float, float]]] = {}  # the times and the values, the newest is last
counted: dict[str, tuple[float, float]] = {}  # the last time and count of each counter
logger = logging.getLogger("dashboard")


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        return str(response.read(4 * 1024 * 1024).decode())


def name_of(name: str, labels: dict[str, str]) -> str:
    inside = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()) if key != "__name__")
    return f"{name}\n{inside}"[:200]


def read() -> Values:
    """Return the values now; blocks."""
    values: Values = {}
    for query in QUERIES:
        answer = json.loads(fetch(f"{URL}/api/v1/query?{urllib.parse.urlencode({'query': query})}"))
        for one in answer["data"]["result"]:
            values[name_of(query, one["metric"])] = (float(one["value"][1]), False)
    for family in [] if QUERIES else text_string_to_metric_families(fetch(URL)):
        for sample in family.samples:
            is_counter = family.type == "counter" or sample.name.endswith(("_count", "_sum"))
            if not LEFT_OUT.search(sample.name):
                values[name_of(sample.name, sample.labels)] = (sample.value, is_counter)
    return values


def add(name: str, value: float, is_counter: bool, now: float) -> None:
    """Add a value to a series, and broadcast it if it has changed. Counters become rates for a second."""
    if is_counter:
        since, before = counted.get(name, (now, value))
        counted[name] = (now, value)
        value = max(0, value - before) / max(SECONDS / 2, now - since)
    value = round(value, 3)
    if not math.isfinite(value) or (name not in series and len(series) >= MAX_SERIES):
        return
    past = series.setdefault(name, deque(maxlen=KEPT))
    if not past or past[-1][1] != value:
        past.append((now, value))
        app.topic("series").broadcast({"series": name, "rate": is_counter, "at": now, "value": value})


class Dashboard(TopicComponent):
    def on_call(self, conn: Connection, method: str, params: Any) -> Any:
        if method != "series":
            return super().on_call(conn, method, params)
        return [{"series": name, "rate": name in counted, "past": list(past)} for name, past in series.items()]


app = App("localhost", PORT, authorize=TopicRules(subscribe=["series"]))
app.route("/live", Dashboard())
app.route_client()
app.metrics(guard=["127.0.0.1", "::1"])  # this machine; behind a proxy, set `trusted_proxies`
app.http("/", lambda request: Response.html(PAGE))


@app.every(SECONDS)
async def update() -> None:
    try:
        values = await run_sync(read)
    except (OSError, ValueError, KeyError) as exc:
        logger.warning("cannot read %s: %s", URL, exc)
        app.topic("series").broadcast({"series": None, "problem": "The source does not answer.", "at": time.time()})
        return
    now = round(time.time(), 1)
    for name, (value, is_counter) in values.items():
        add(name, value, is_counter, now)
    app.topic("series").broadcast({"series": None, "problem": "", "at": now})


if __name__ == "__main__":
    app.run()
