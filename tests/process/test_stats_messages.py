"""Numbers of several processes are added, and pass between processes unchanged."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pywsapp._histogram import BOUNDS, Histogram
from pywsapp._limits.message_counts import RateLimitStats
from pywsapp._process.stats_messages import GAUGES, NO_STATS, added, from_json, is_numbers, to_json, without_gauges
from pywsapp.brokers.relay_stats import RelayStats
from pywsapp.stats import ProcessStats, RouteStats, SessionStats, Stats
from pywsapp.topics.topic_stats import TopicStats

LAGS = Histogram()
LAGS.observe(0.002)
LAGS.observe(99)

ROUTE = RouteStats(
    open_connections=3,
    handshakes=5,
    closed={"1000": 2, "other": 1},
    messages_received=10,
    bytes_received=100,
    messages_sent=20,
    bytes_sent=200,
    messages_dropped=1,
    handler_seconds=LAGS.stats,
    ping_seconds=None,
)
STATS = Stats(
    open_connections=3,
    pending_connections=1,
    accepted_connections=9,
    evicted_connections=2,
    handshakes=5,
    refused={404: 1},
    limits={"max_connections": 4},
    rate_limits={"chat": RateLimitStats(1, 2, 3, 4)},
    topics=TopicStats(2, 1, 1, 1, RelayStats(1, 1, 7, 1, 8, 2, 1.5), 6, 1, 2, 300),
    routes={"/a": ROUTE},
    sessions={"memory": SessionStats(3, 1, 1)},
    queued_messages=1,
    queued_bytes=10,
    outbox_bytes=20,
    slow_connections=1,
    loop_lag=LAGS.stats,
    process=ProcessStats(1000, 1.5, 4),
)


def test_numbers_pass_between_processes_unchanged() -> None:
    assert from_json(json.loads(json.dumps(to_json(STATS)))) == STATS
    assert from_json(json.loads(json.dumps(to_json(NO_STATS)))) == NO_STATS


@pytest.mark.parametrize("value", [None, 1, [], {}, [1, 2], to_json(STATS)[:-1], [*to_json(STATS), 1]])
def test_other_values_are_no_numbers(value: object) -> None:
    with pytest.raises((AttributeError, TypeError, ValueError)):
        from_json(value)


def test_a_histogram_with_other_buckets_is_no_number() -> None:
    """Of a worker of another release: it could not be added to others, which would end the supervisor."""
    lags = LAGS.stats._replace(buckets=LAGS.stats.buckets[1:])
    with pytest.raises(ValueError, match="bucket"):
        from_json(json.loads(json.dumps(to_json(dataclasses.replace(STATS, loop_lag=lags)))))


def test_numbers_are_added() -> None:
    other = dataclasses.replace(
        STATS,
        refused={404: 2, 503: 1},
        routes={"/a": dataclasses.replace(ROUTE, ping_seconds=LAGS.stats), "/b": ROUTE},
        topics=STATS.topics._replace(broker=None),
    )
    total: Stats = added([STATS, None, other])
    assert (total.handshakes, total.open_connections, total.refused) == (10, 6, {404: 3, 503: 1})
    assert total.routes["/a"].closed == {"1000": 4, "other": 2}
    assert total.routes["/a"].ping_seconds == LAGS.stats
    assert total.routes["/b"] == ROUTE
    assert total.loop_lag is not None
    assert (total.loop_lag.number, total.loop_lag.seconds) == (4, 198.004)
    assert total.loop_lag.buckets[BOUNDS.index(0.0025)] == total.loop_lag.buckets[-1] == 2
    assert total.rate_limits == {"chat": (2, 4, 6, 8)}
    assert total.topics.broker == STATS.topics.broker
    assert total.process == (2000, 3.0, 8)
    assert added([RelayStats(1, 1, 1, 0, 1, 1, 0.5), RelayStats(1, 2, 1, 0, 1, 1, 2.5)]) == (2, 3, 2, 0, 2, 2, 2.5)


def test_what_is_now_ends_with_its_process() -> None:
    ended = without_gauges(STATS)
    assert (ended.open_connections, ended.queued_bytes, ended.process) == (0, 0, (0, 1.5, 0))
    assert ended.topics == TopicStats(0, 1, 1, 1, RelayStats(0, 1, 7, 1, 8, 0, 0.0), 0, 0, 0, 0)
    assert ended.routes == {"/a": dataclasses.replace(ROUTE, open_connections=0)}
    assert (ended.handshakes, ended.loop_lag, ended.rate_limits) == (5, LAGS.stats, STATS.rate_limits)


def test_all_gauges_are_fields() -> None:
    kinds = (Stats, RouteStats, ProcessStats, TopicStats, RelayStats)
    assert all(map(is_numbers, kinds))
    names = {name for kind in kinds for name in kind.__annotations__}
    assert names >= GAUGES


def test_a_histogram_counts_up_to_its_bounds() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.0001, 0.00011, 10.0, 10.1):
        histogram.observe(seconds)
    buckets = histogram.stats.buckets
    assert (buckets[0], buckets[1], buckets[-2], buckets[-1]) == (2, 1, 1, 1)
    assert histogram.stats.number == 5
