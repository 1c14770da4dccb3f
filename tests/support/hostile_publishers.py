"""Programs that may publish on a broker and send bytes that no client library sends: one for each kind of broker."""

from __future__ import annotations

import socket
import struct
from contextlib import closing

from pamqp import commands, frame

from support.services import Nats, Rabbit, Redis

_SECONDS = 5
_SWAP_SEPARATORS = bytes.maketrans(b":.", b".:")


def to_redis(server: Redis, *messages: tuple[bytes, bytes]) -> None:
    """Publish data on topics, both any bytes."""
    commands = b"".join(
        b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (b"PUBLISH", b"pywsapp:" + topic, data))
        for topic, data in messages
    )
    with closing(socket.create_connection(("127.0.0.1", server.port), _SECONDS)) as sock:
        sock.sendall(commands + b"PING\r\n")
        _read_until(sock, b"+PONG\r\n")


def to_nats(server: Nats, *messages: tuple[bytes, bytes]) -> None:
    """Publish data on topics, both any bytes."""
    send_to_nats(server, *(_nats_publish(topic, data) for topic, data in messages))


def send_to_nats(server: Nats, *operations: bytes) -> None:
    """Send operations of the protocol of NATS, and wait until the server has handled them."""
    with closing(socket.create_connection(("127.0.0.1", server.port), _SECONDS)) as sock:
        sock.sendall(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
        sock.sendall(b"".join(operations) + b"PING\r\n")
        assert b"-ERR" not in _read_until(sock, b"PONG\r\n")


def _nats_publish(topic: bytes, data: bytes) -> bytes:
    return b"PUB pywsapp.%s %d\r\n%s\r\n" % (topic.translate(_SWAP_SEPARATORS), len(data), data)


def _read_until(sock: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received:
        data = sock.recv(65536)
        assert data, f"the server closed the connection after {received!r}"
        received += data
    return received


def to_rabbitmq(server: Rabbit, *messages: tuple[bytes, bytes], properties: bytes = b"\0\0") -> None:
    """Publish data on topics, both any bytes.

    Args:
        server: the node.
        messages: topics and data.
        properties: the flags of the properties of all messages, and the properties.
    """
    with closing(socket.create_connection(("127.0.0.1", server.port), _SECONDS)) as sock:
        sock.sendall(b"AMQP\0\0\x09\x01")
        _read_frame(sock)
        sock.sendall(frame.marshal(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US"), 0))
        _read_frame(sock)
        sock.sendall(frame.marshal(commands.Connection.TuneOk(8, 131072, 0), 0))
        sock.sendall(frame.marshal(commands.Connection.Open("/"), 0))
        _read_frame(sock)
        sock.sendall(frame.marshal(commands.Channel.Open(), 1))
        _read_frame(sock)
        for topic, data in messages:
            sock.sendall(_amqp_publish(topic.translate(_SWAP_SEPARATORS), properties, data))
        sock.sendall(frame.marshal(commands.Channel.Close(200, "", 0, 0), 1))
        assert isinstance(frame.unmarshal(_read_frame(sock))[2], commands.Channel.CloseOk)


def _read_frame(sock: socket.socket) -> bytes:
    head = _read_exactly(sock, 7)
    return head + _read_exactly(sock, struct.unpack(">I", head[3:])[0] + 1)


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = sock.recv(size - len(received))
        assert data, "the server closed the connection"
        received += data
    return received


def short_text(text: bytes) -> bytes:
    """Return a short string of AMQP."""
    return bytes([len(text)]) + text


def table(*fields: bytes) -> bytes:
    """Return a field table of AMQP."""
    content = b"".join(fields)
    return struct.pack(">I", len(content)) + content


def _amqp_publish(key: bytes, properties: bytes, data: bytes) -> bytes:
    method = struct.pack(">HHH", 60, 40, 0) + short_text(b"pywsapp") + short_text(key) + b"\0"
    frames = [(1, method), (2, struct.pack(">HHQ", 60, 0, len(data)) + properties)]
    frames += [(3, data[at : at + 100_000]) for at in range(0, len(data), 100_000)]
    return b"".join(struct.pack(">BHI", kind, 1, len(content)) + content + b"\xce" for kind, content in frames)
