"""Reports of a limit: how often it was exceeded, as a number for `App.stats` and as log lines that do not flood.

The log gets one line when a limit is exceeded for the first time, and then at most one line in `LOG_SECONDS`, with the
number of times since the line before. `tick` writes the last line of a flood that has ended.
"""

from __future__ import annotations

import logging

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields

logger = logging.getLogger("pywsapp")

#: Seconds between two log lines of one limit.
LOG_SECONDS = 10.0


class LimitReport:
    """The report of one limit in this process; the part of the server that enforces the limit makes it.

    Args:
        text: what happens above the limit, as a statement for the log: "refused a connection above
            max_connections_per_address of the App". The log adds the detail and the number.
        level: the level of the log lines.
        event: the name of the event in the log.
        limit: the name of the limit in the log, usually that of an option.

    Attributes:
        count: how often the limit was exceeded since the start of the process.
    """

    __slots__ = ("_detail", "_event", "_level", "_limit", "_logged_at", "_logged_count", "_text", "count")

    def __init__(
        self, text: str, *, level: int = logging.WARNING, event: str = "limit.exceeded", limit: str | None = None
    ) -> None:
        self.count = 0
        self._text = text
        self._level = level
        self._event = event
        self._limit = limit
        self._detail = ""
        self._logged_count = 0
        self._logged_at: float | None = None

    def exceeded(self, detail: object, now: float) -> None:
        """Count one excess, and log it if the last line is `LOG_SECONDS` old. Never blocks and never raises.

        Args:
            detail: the client, or what else belongs to the log line; it is made to text only for a line.
            now: seconds of a monotonic clock; one report has one clock, and that of trio is another than
                `time.monotonic`.
        """
        self.count += 1
        if self._logged_at is None or now - self._logged_at >= LOG_SECONDS:
            self._log(detail, now)
        elif self.count == self._logged_count + 1:
            self._detail = one_line(str(detail))  # for `tick`; as text, so that no connection is kept

    def tick(self, now: float) -> None:
        """Log what was counted since the last line, if that line is `LOG_SECONDS` old.

        Args:
            now: seconds of the clock of `exceeded`.
        """
        if self.count > self._logged_count and self._logged_at is not None and now - self._logged_at >= LOG_SECONDS:
            self._log(self._detail, now)

    def _log(self, detail: object, now: float) -> None:
        number = self.count - self._logged_count
        self._logged_at, self._logged_count, self._detail = now, self.count, ""
        text = one_line(str(detail))
        times = "" if number == 1 else f", {number} times since the last such line"
        logger.log(
            self._level,
            "%s: %s%s",
            self._text,
            text,
            times,
            extra=log_fields(self._event, detail, limit=self._limit, detail=text, count=number),
        )
