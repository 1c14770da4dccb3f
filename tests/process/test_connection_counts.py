"""The number of connections that the workers of a machine share."""

from __future__ import annotations

import os
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no workers", allow_module_level=True)

from pywsapp._process.connection_counts import ConnectionCount, ConnectionCounts


def test_each_process_sees_the_sum() -> None:
    with ConnectionCounts(2) as counts:
        places = [counts.take(), counts.take()]
        workers = [ConnectionCount(os.dup(counts.fd), place, counts.places) for place in places if place is not None]
        assert workers[0].update(3) == 3
        assert workers[1].update(4) == 7
        assert workers[0].update(1) == 5
        counts.release(places[1])
        assert workers[0].update(1) == 1, "the second process has ended"


def test_places_are_used_again_and_have_an_end() -> None:
    with ConnectionCounts(2) as counts:
        places = [counts.take() for _ in range(8)]
        assert sorted(place for place in places if place is not None) == list(range(8))
        assert counts.take() is None
        counts.release(None)
        counts.release(5)
        assert counts.take() == 5
