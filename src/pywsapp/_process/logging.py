"""Set up logging for programs that have not done it, and add the worker to log records."""

from __future__ import annotations

import logging
from typing import Any

_logger = logging.getLogger("pywsapp")

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_WORKER_FORMAT = "%(asctime)s %(worker)s %(levelname)s %(message)s"


def set_up_logging(worker: int | None) -> None:
    """Log to stderr from level INFO, unless the program has added a handler.

    Args:
        worker: the number of this worker process, or None if it is none. In a worker all log records, those of the
            application included, get an attribute `worker`, "worker 2" for instance.
    """
    if worker is not None:
        _name_records(f"worker {worker}")
    if logging.getLogger().handlers or _logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT if worker is None else _WORKER_FORMAT))
    _logger.addHandler(handler)
    if _logger.level == logging.NOTSET:
        _logger.setLevel(logging.INFO)


def _name_records(name: str) -> None:
    make = logging.getLogRecordFactory()

    def named(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        record.worker = name
        return record

    logging.setLogRecordFactory(named)
