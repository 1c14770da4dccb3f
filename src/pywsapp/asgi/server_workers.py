"""Whether this process is one of several workers of an ASGI server.

ASGI does not say. uvicorn and hypercorn start their workers with `multiprocessing`, with their configuration as an
argument, and granian with the number of the worker; the arguments are still there in the worker. Workers of gunicorn
get nothing, so they are not recognised, and neither is the first worker of granian.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

_GRANIAN = "granian-worker"


def other_workers() -> str | None:
    """Return what this process is one of, for a message: "4 workers of uvicorn"; None if that is not known."""
    process: Any = multiprocessing.current_process()
    config = getattr(process, "_kwargs", {}).get("config")
    workers = getattr(config, "workers", 1)
    server = type(config).__module__.partition(".")[0]
    reloads = server == "uvicorn" and getattr(config, "reload", False)  # uvicorn has one worker then
    if isinstance(workers, int) and workers > 1 and not reloads:
        return f"{workers} workers of {server}"
    arguments = getattr(process, "_args", ())
    if process.name == _GRANIAN and arguments and isinstance(arguments[0], int) and arguments[0] > 1:
        return "several workers of granian"
    return None
