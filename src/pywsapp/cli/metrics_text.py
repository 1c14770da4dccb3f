"""The text format of Prometheus, as far as `pywsapp top` reads it: samples with labels, bounded."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

#: Samples of one text; a server with thousands of routes has fewer.
MAX_SAMPLES = 200_000
#: Characters of a line.
_MAX_LINE = 16_384
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+([^ \t]+)(?:[ \t]+-?[0-9.]+)?[ \t]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"[ \t]*,?[ \t]*')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n"}
#: The shortest time between two readings; the clock of Windows has steps of 15 ms.
_MIN_SECONDS = 0.001


class NoMetrics(ValueError):
    """A text has no metrics of pywsapp."""


class Reading:
    """The samples of one text.

    Args:
        text: the text.

    Attributes:
        at: when it was read, in seconds of a monotonic clock.

    Raises:
        NoMetrics: it has no metrics of pywsapp.
    """

    def __init__(self, text: str) -> None:
        self.at = time.monotonic()
        self._samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for number, (name, labels, value) in enumerate(_samples(text)):
            if number >= MAX_SAMPLES:
                raise NoMetrics(f"it has more than {MAX_SAMPLES} samples")
            self._samples.setdefault(name, {})[labels] = value
        if "pywsapp_info" not in self._samples:
            raise NoMetrics("it has no metrics of pywsapp")

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with some labels; 0 without any."""
        wanted = set(labels.items())
        return sum(value for found, value in self._samples.get(name, {}).items() if wanted <= set(found))

    def has(self, name: str) -> bool:
        """Return whether there is a sample with a name."""
        return name in self._samples

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the sums of the samples by the value of a label."""
        sums: dict[str, float] = {}
        for labels, value in self._samples.get(name, {}).items():
            key = dict(labels).get(label, "")
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def is_behind(self, other: Reading) -> bool:
        """Return whether a counter is smaller than in another reading, so that its server has restarted."""
        return any(
            name.endswith("_total") and value < other._samples.get(name, {}).get(labels, 0.0)
            for name, samples in self._samples.items()
            for labels, value in samples.items()
        )


class Change(NamedTuple):
    """The changes between two readings.

    Args:
        now: the last reading.
        before: the reading before it; None without one, or if the server has restarted between them.
    """

    now: Reading
    before: Reading | None

    def rate(self, name: str, **labels: str) -> float | None:
        """Return by how much a counter grows in a second; None if this is not known."""
        if self.before is None:
            return None
        seconds = max(self.now.at - self.before.at, _MIN_SECONDS)
        return (self.now.sum(name, **labels) - self.before.sum(name, **labels)) / seconds

    def longest(self, name: str) -> float | None:
        """Return an upper bound of the longest duration of a histogram between the readings, in seconds."""
        if self.before is None:
            return None
        counts, before = (one.by(f"{name}_bucket", "le") for one in (self.now, self.before))
        total = counts.get("+Inf", 0.0) - before.get("+Inf", 0.0)
        bounds = sorted((float(bound), count - before.get(bound, 0.0)) for bound, count in counts.items())
        return next((bound for bound, count in bounds if count >= total), None) if total > 0 else None


def _samples(text: str) -> Iterator[tuple[str, tuple[tuple[str, str], ...], float]]:
    for line in text.split("\n"):  # a label can have other characters that `splitlines` takes for the end of a line
        line = line.removesuffix("\r")
        if not line or line.startswith("#"):
            continue
        found = None if len(line) > _MAX_LINE else _SAMPLE.fullmatch(line)
        if found is None:
            raise NoMetrics("it is not in the text format of Prometheus")
        labels = tuple((name, _unescaped(label)) for name, label in _LABEL.findall(found[2] or ""))
        for number in (found[3], *(label for name, label in labels if name == "le")):
            try:
                float(number)
            except ValueError:
                raise NoMetrics("it is not in the text format of Prometheus") from None
        yield found[1], labels, float(found[3])


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), text) if "\\" in text else text
