"""A live dashboard from Prometheus data: rates and values of any exporter, or the answers to queries.

Run:   python dashboard.py [PORT]
Try:   open http://localhost:8080 in two windows: the numbers are those of this server. Reload one, and watch the
       connections. For other numbers: SOURCE=http://localhost:9100/metrics python dashboard.py
       For a Prometheus server: SOURCE=http://localhost:9090 QUERIES='up; rate(requests_total[1m])' python dashboard.py

The server asks the source once in a second, however many pages there are, and broadcasts only what has changed. A slow
page gets only the newest value of each series (`newest`). Each page asks for the last values when it has subscribed.
Needs the extra `prometheus`. Run this program in one process: each one would ask the source.
"""

import json
import logging
import math
import os
import re
import sys
import time
import urllib.parse
import urllib.request
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync
from prometheus_client.parser import text_string_to_metric_families

from pywsapp import App, Connection, RateLimit, Response, TopicComponent, TopicRules

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
SOURCE = os.environ.get("SOURCE", "")  # by default the metrics of this server
QUERIES = [query.strip() for query in os.environ.get("QUERIES", "").split(";") if query.strip()]
SECONDS, KEPT, MAX_SERIES = 1, 120, 100
LEFT_OUT = re.compile("_(bucket|created|info)$")
logger = logging.getLogger("dashboard")
Values = dict[str, tuple[float, bool]]  # by the names of series; True for a counter


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        return str(response.read(4 * 1024 * 1024).decode())


def name_of(name: str, labels: dict[str, str]) -> str:
    inside = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()) if key != "__name__")
    return f"{name}\n{inside}"[:200]


def read() -> Values:
    """Return the values now; blocks."""
    values: Values = {}
    source = SOURCE or f"http://localhost:{app.port}/metrics"
    for query in QUERIES:
        answer = json.loads(fetch(f"{source}/api/v1/query?{urllib.parse.urlencode({'query': query})}"))
        for one in answer["data"]["result"]:
            values[name_of(query, one["metric"])] = (float(one["value"][1]), False)
    for family in [] if QUERIES else text_string_to_metric_families(fetch(source)):
        for sample in family.samples:
            is_counter = family.type == "counter" or sample.name.endswith(("_count", "_sum"))
            if not LEFT_OUT.search(sample.name):
                values[name_of(sample.name, sample.labels)] = (sample.value, is_counter)
    return values


@dataclass
class Series:
    is_counter: bool
    counted: tuple[float, float]  # the last time and value of a counter
    past: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT))  # times and values

    def add(self, now: float, value: float) -> bool:
        """Add a value, and return whether it is another one. Counters become rates for a second."""
        if self.is_counter:
            (since, before), self.counted = self.counted, (now, value)
            value = max(0, value - before) / max(SECONDS / 2, now - since)
        value = round(value, 3)
        if not math.isfinite(value) or (self.past and self.past[-1][1] == value):
            return False
        self.past.append((now, value))
        return True


class Dashboard(TopicComponent):
    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.problem = ""

    def on_call(self, conn: Connection, method: str, params: Any) -> Any:
        if method != "series":
            return super().on_call(conn, method, params)
        return [{"series": name, "rate": one.is_counter, "past": [*one.past]} for name, one in self.series.items()]

    async def update(self) -> None:
        """Read the values, and broadcast the changes, then a message without a series: the values are complete."""
        now = round(time.time(), 1)
        try:
            self.show(await run_sync(read), now)
            self.problem = ""
        except Exception as exc:  # the source is another program
            if not self.problem:
                logger.warning("cannot read the source: %r", exc)
            self.problem = "The source does not answer."
        app.topic("series").broadcast({"series": None, "problem": self.problem, "at": now})

    def show(self, values: Values, now: float) -> None:
        topic = app.topic("series")
        for name in self.series.keys() - values.keys():
            del self.series[name]
            topic.broadcast({"series": name, "value": None, "at": now})
        for name, (value, is_counter) in values.items():
            if name not in self.series and len(self.series) < MAX_SERIES:
                self.series[name] = Series(is_counter, (now, value))
            if (one := self.series.get(name)) and one.add(now, value):
                topic.broadcast({"series": name, "rate": is_counter, "value": one.past[-1][1], "at": now})


dashboard = Dashboard()
app = App("localhost", 8080, authorize=TopicRules(subscribe=["series"]))
app.route("/live", RateLimit(dashboard, messages_per_second=5))
app.route_client()
app.metrics(guard=["127.0.0.1", "::1"])  # this machine; behind a proxy, set `trusted_proxies`
app.every(SECONDS)(dashboard.update)
app.http("/", lambda request: Response.html(PAGE))


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
