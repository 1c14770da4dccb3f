#!/usr/bin/env python3
"""Measure what a page of a FastAPI site costs under uvicorn, and under `App.site` beside it.

    pages.py                            five rounds of both, in turn
    pages.py --http h11 --rounds 9      with the other HTTP protocol of uvicorn

Both servers use uvloop. 16 connections make one request after the other. The output has the requests per second, the
processor time of the server for a request, and the median, the lowest and the highest ratio of both in a round.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pywsapp import App
from pywsapp.asgi.site import Site

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: benchmark\r\nAccept: */*\r\n\r\n"
CONNECTIONS = 16
_LENGTH = b"content-length: "


def make_site() -> FastAPI:
    """Return a site with one small page."""
    site = FastAPI()

    @site.get("/")
    async def page() -> dict[str, str]:
        return {"hello": "world"}

    return site


def run_uvicorn(sock: socket.socket, http: Any) -> None:
    """Serve the site with uvicorn."""
    config = uvicorn.Config(make_site(), http=http, loop="uvloop", ws="none", log_level="error", access_log=False)
    uvicorn.Server(config).run([sock])


def run_pywsapp(sock: socket.socket, http: Any) -> None:
    """Serve the site with `App.site`."""
    logging.disable()
    Site.http = http
    app = App("localhost", fd=sock.fileno())
    app.site(make_site())
    app.run(uvloop=True)


async def ask(port: int, end: float) -> int:
    """Make requests on one connection until a time; return their number."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.perf_counter() < end:
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(_LENGTH)[2].partition(b"\r\n")[0]))
        number += 1
    writer.close()
    return number


async def load(port: int, seconds: float) -> int:
    """Make requests on all connections; return their number."""
    end = time.perf_counter() + seconds
    return sum(await asyncio.gather(*[ask(port, end) for _ in range(CONNECTIONS)]))


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print a line for each server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", choices=["auto", "h11", "httptools"], default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    runs: dict[str, Callable[..., None]] = {"uvicorn": run_uvicorn, "app.site": run_pywsapp}
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in runs}
    servers = {name: context.Process(target=run, args=(sockets[name], options.http)) for name, run in runs.items()}
    for server in servers.values():
        server.start()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    costs: dict[str, list[float]] = {name: [] for name in runs}
    try:
        for number in range(options.rounds + 1):
            for name, server in servers.items():
                assert server.pid is not None
                before = processor_seconds(server.pid)
                port = sockets[name].getsockname()[1]
                requests = anyio.run(load, port, options.seconds, backend_options={"use_uvloop": True})
                if number:  # the first round warms up
                    rates[name].append(requests / options.seconds)
                    costs[name].append((processor_seconds(server.pid) - before) / requests)
    finally:
        for server in servers.values():
            server.terminate()
            server.join()
    for name in runs:
        rate, cost = statistics.median(rates[name]), statistics.median(costs[name])
        print(f"{name:10} {rate:8,.0f} requests/s {cost * 1e6:6.0f} µs")
    for what, found in (("requests/s", rates), ("processor time", costs)):
        ratios = sorted(mine / other for mine, other in zip(found["app.site"], found["uvicorn"], strict=True))
        print(f"{what}: {statistics.median(ratios):.2f} x uvicorn ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
