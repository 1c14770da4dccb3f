"""Set up logging for programs that have not done it, and add the worker to log records."""

from __future__ import annotations

import configparser
import json
import logging
import logging.config
import os
import sys
from typing import Any

from pywsapp._log_fields import log_fields
from pywsapp.exceptions import ConfigurationError
from pywsapp.logs import JsonFormatter

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

logger = logging.getLogger("pywsapp")

LOG_FORMATS = ("text", "json")
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_WORKER_FORMAT = "%(asctime)s %(worker)s %(levelname)s %(message)s"


def check_log_format(log_format: str) -> None:
    """Check the name of a form of the log.

    Raises:
        ConfigurationError: there is no such form.
    """
    if log_format not in LOG_FORMATS:
        raise ConfigurationError(f"log_format must be 'text' or 'json', not {log_format!r}")


def set_up_logging(worker: int | None, log_format: str = "text") -> None:
    """Log to stderr from level INFO, unless the program has added a handler.

    The handler is one of the root logger: the lines of the program are in the same place and form as those of the
    library.

    Args:
        worker: the number of this worker process, or None if it is none. In a worker all log records, those of the
            application included, get an attribute `worker`, "worker 2" for instance.
        log_format: "text" or "json".
    """
    if worker is not None:
        _name_records(f"worker {worker}")
    root = logging.getLogger()
    if root.handlers or logger.handlers:
        if log_format != "text":
            logger.warning(
                "log_format=%r has no effect, because the program has set up logging; use pywsapp.logs.JsonFormatter",
                log_format,
                extra=log_fields("log.format_unused"),
            )
        return
    handler = logging.StreamHandler()
    text_format = _FORMAT if worker is None else _WORKER_FORMAT
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(text_format))
    root.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if root.level == logging.WARNING:  # as Python sets it
        root.setLevel(max(logging.INFO, logger.level))


def configure_logging(file: str) -> None:
    """Set up logging as a file says: the dictionary of `logging.config.dictConfig` as JSON or TOML, or an INI file.

    Loggers that exist stay enabled, unless a dictionary has `disable_existing_loggers`. Blocks while it reads the file.

    Args:
        file: its name ends in .json, in .toml (from Python 3.11), or in .ini, .cfg or .conf for `fileConfig`.

    Raises:
        ConfigurationError: the file cannot be read, or is not valid.
    """
    kind = os.path.splitext(file)[1]
    if kind == ".toml" and tomllib is None:
        raise ConfigurationError("a log configuration as TOML needs Python 3.11; write it as JSON")
    try:
        if kind in (".ini", ".cfg", ".conf"):
            with open(file, encoding="utf-8") as opened:
                logging.config.fileConfig(opened, disable_existing_loggers=False)
        elif kind in (".json", ".toml"):
            with open(file, "rb") as opened:
                settings = json.load(opened) if kind == ".json" else tomllib.load(opened)
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **settings})
        else:
            raise ConfigurationError(f"the name of a log configuration must end in .json, .toml or .ini, not {file!r}")
    except OSError as exc:
        raise ConfigurationError(f"the log configuration {file} cannot be read: {exc.strerror}") from None
    except (ValueError, TypeError, AttributeError, ImportError, KeyError, RuntimeError, configparser.Error) as exc:
        # The message of dictConfig says which part is wrong, and its cause says why.
        cause = "" if exc.__cause__ is None else f": {exc.__cause__}"
        raise ConfigurationError(f"the log configuration {file} is not valid: {exc}{cause}") from exc


def _name_records(name: str) -> None:
    make = logging.getLogRecordFactory()

    def named(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        record.worker = name
        return record

    logging.setLogRecordFactory(named)
