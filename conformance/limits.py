"""The options of the tested peers: limits that the largest cases need."""

from __future__ import annotations

from pywsapp import Deflate, Options

BACKENDS = ("asyncio", "uvloop", "trio")

MEBIBYTE = 1024 * 1024

OPTIONS = Options(
    max_message_size=16 * MEBIBYTE,
    max_frame_size=16 * MEBIBYTE,
    max_fragments=65_537,  # 9.3.1 and 9.4.1 send 4 MiB in frames of 64 bytes, and a last, empty one
    max_outbox=64 * MEBIBYTE,  # 12.* and 13.* send 1000 messages of up to 128 KiB without reading
    message_timeout=600,
    control_frames_per_second=1000,
    control_frames_burst=1000,
    deflate=Deflate(threshold=0),  # 12.* compress small messages too
)
