"""Whatever is encoded is decoded as the same, once; with a key, nothing else is decoded, and nothing twice.

An input is a series of steps of a process that publishes, of one that receives, and of a broker that changes bytes.
"""

from __future__ import annotations

import logging

from harness import check_text, fuzz, instrumented

with instrumented():
    from pywsapp.brokers.envelope import EnvelopeError
    from pywsapp.topics.codec import EnvelopeCodec
    from pywsapp.topics.replays import GrowingNumbers, Novelty

logging.getLogger("pywsapp").setLevel(logging.CRITICAL)  # envelopes that are dropped are logged

TOPICS = ("room:1", "room:\N{GRINNING FACE}", '"\\')
KEYS = (None, "a key", ["the new key", "a key"])


class Broker:
    """A publisher and a receiver, and the envelopes between them.

    Args:
        signing: the keys of the publisher; None signs nothing.
        accepted: the keys of the receiver.
    """

    def __init__(self, signing: str | list[str] | None, accepted: str | list[str] | None) -> None:
        self.publisher, self.receiver = EnvelopeCodec(signing), EnvelopeCodec(accepted)
        self.sent: dict[bytes, tuple[str, str | bytes]] = {}
        self.delivered: set[bytes] = set()
        self.seen = GrowingNumbers()
        self.read_to = -1  # the index of the last envelope that was read from the history
        self.is_signed = signing is not None

    def publish(self, topic: str, content: str | bytes) -> None:
        data = self.publisher.encode(topic, content)
        assert self.publisher.is_own(topic, data)
        assert not self.receiver.is_own(topic, data)
        self.publisher.remember(data, content)
        kept = self.publisher.decode(topic, data)
        assert (kept.message, kept.origin) == (content, self.publisher.origin)
        self.publisher.forget(data)
        assert self.publisher.decode(topic, data) == kept, "the same with and without the memory"
        self.sent[data] = topic, content

    def receive(self, topic: str, data: bytes) -> None:
        """Check that an envelope is what was sent, or refused."""
        try:
            envelope = self.receiver.decode(topic, data)
        except EnvelopeError as exc:
            check_text(exc, 300)
            self.check_refused(topic, data)
            return
        if self.is_signed or data in self.sent:
            assert self.sent.get(data) == (topic, envelope.message), "it was not sent"
        if self.is_signed:
            novelty = self.receiver.guard.novelty_of(envelope)
            assert (novelty is Novelty.NEXT) <= (data not in self.delivered), "it is delivered twice"
            self.delivered.add(data)

    def check_refused(self, topic: str, data: bytes) -> None:
        assert self.sent.get(data, ("",))[0] != topic, "what was sent is refused"

    def read_history(self, topic: str, number: int) -> None:
        """Check that an envelope is read from a history once, and not after a later one."""
        if not self.sent or not self.is_signed:
            return
        number %= len(self.sent)
        data = list(self.sent)[number]
        found = self.receiver.decode_kept(topic, data, self.seen)
        if self.sent[data][0] == topic and number > self.read_to:
            assert found == self.sent[data][1]
            self.read_to = number
        else:
            assert found is None


def one_input(data: bytes) -> None:
    """Run one input: two bytes of keys, and steps: a kind, a topic and two numbers, or the length of a content."""
    if len(data) < 3:
        return
    signing = KEYS[data[0] % 3]
    signs_with = signing if not isinstance(signing, list) else "a key"
    broker = Broker(signs_with, signing)
    rest = data[1:]
    while len(rest) >= 3:
        kind, topic, size = rest[0] % 5, TOPICS[rest[1] % 3], rest[2]
        rest = rest[3:]
        content, sent = rest[:size], list(broker.sent)
        if kind == 0:
            broker.publish(topic, content)
            rest = rest[size:]
        elif kind == 1:
            broker.publish(topic, content.decode("utf-8", "replace"))
            rest = rest[size:]
        elif kind == 2:
            broker.receive(topic, sent[size % len(sent)] if sent else content)
        elif kind == 3:
            original = bytearray(sent[-1] if sent else b"{}")
            original[size % len(original)] ^= 1 << size % 8
            broker.receive(topic, bytes(original))
        else:
            broker.read_history(topic, size)
    broker.receive(TOPICS[0], rest)
    broker.receive(TOPICS[0], data)


def seeds() -> list[bytes]:
    steps = [
        b"\0\0\5hello\2\0\0\2\0\0",
        b"\1\0\5hello\1\0\1a\4\0\0\4\0\1\4\0\0",
        b"\0\1\3\xff\xfe\0\2\1\0\3\1\7",
        b'\1\2\4\\"\n\0\2\2\0\4\2\0',
        b"\3\0\1\2\0\0\4\0\0",
        b"\0\0\0\1\0\0\2\0\1\2\1\1\3\0\50",
        b"\0\0\1a" * 10 + b"\4\0\5\4\0\6\4\0\5",
        b"{}",
        b'\2\0\xff{"v":1,"topic":"room:1","from":"x","text":"forged"}',
    ]
    return [bytes((key,)) + step for key in range(3) for step in steps]


if __name__ == "__main__":
    fuzz(one_input, seeds())
