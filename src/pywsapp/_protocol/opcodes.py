"""The bits in the first byte of a frame (RFC 6455 section 5.2)."""

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA
FIN = 0x80
RSV1 = 0x40
