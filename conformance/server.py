#!/usr/bin/env python3
"""The echo server under test: python conformance/server.py --port 8080 --backend trio."""

from __future__ import annotations

import argparse

from limits import BACKENDS, OPTIONS
from pywsapp import App, EchoServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    args = parser.parse_args()
    app = App("*", args.port, "127.0.0.1", options=OPTIONS)
    app.route("/", EchoServer(), allowed_origins=["*"])
    app.run(backend="trio" if args.backend == "trio" else "asyncio", uvloop=args.backend == "uvloop")


if __name__ == "__main__":
    main()
