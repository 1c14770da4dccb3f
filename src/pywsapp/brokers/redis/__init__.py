"""The broker for Redis and Valkey: `App(broker="redis://localhost")`. Needs `pip install 'pywsapp[redis]'`.

A topic is a channel, whose name is the topic's name with a prefix; a message is an envelope published there. The URLs
and options are in docs/reference/brokers.md. `history` describes how a topic keeps messages.

Each process has two connections to each server, one for commands and one for subscriptions. The servers are a single
one, or the masters of a cluster.
"""

from pywsapp.brokers.redis.broker import RedisBroker, broker_from_url

__all__ = ("RedisBroker", "broker_from_url")
