"""Brokers carry the messages of topics between processes and machines.

An application chooses a broker by its URL, `App(broker="redis://localhost")`, or passes a `Broker` object. This package
exports what a broker of your own needs:

1. Subclass `Broker`. Its `connect` opens one connection and returns a `BrokerConnection`.
2. Subclass `BrokerConnection`: `publish` sends a batch of `Outgoing` messages, `subscribe` and `unsubscribe` choose
   topics, `wait_lost` returns when the connection is lost, `aclose` closes it. The connection calls the `Receive`
   function that `connect` was given for each message that it receives. `publish` and `subscribe` raise `PartlyRefused`
   for the messages or topics that the broker refuses, and any other exception when the connection is lost.
3. A broker that keeps histories sets `keeps_history`. It stores messages that have a `Keep`, numbers them with a
   `Position`, and returns them as `Kept` from `read_history`.
4. Test it with `pywsapp.testing.check_broker`, which checks every rule of this contract.

A broker does not reconnect, repeat messages or queue them: pywsapp does that for every broker. A client library that
needs asyncio also runs under trio with `pywsapp.brokers.asyncio_bridge.connect_on_asyncio`.
"""

from pywsapp.brokers.base import Broker, BrokerConnection, Keep, Kept, Outgoing, PartlyRefused, Position, Receive

__all__ = ("Broker", "BrokerConnection", "Keep", "Kept", "Outgoing", "PartlyRefused", "Position", "Receive")
