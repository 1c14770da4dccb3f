"""permessage-deflate by Intel's ISA-L: two to three times as fast as zlib, for a few per cent more bytes.

    from pywsapp import App, Deflate, Options
    from pywsapp.isal import compressor

    app = App("localhost", 8080, options=Options(deflate=Deflate(compressor=compressor)))

Inflating stays with zlib, which is faster at it for messages. Needs `pip install 'pywsapp[isal]'`.
"""

from __future__ import annotations

import zlib

from isal import isal_zlib

from pywsapp.options import Compressor


def compressor(level: int, window_bits: int, mem_level: int) -> Compressor:
    """Make a compressor; for `Deflate.compressor`.

    Args:
        level: zlib's, 0 to 9; above 0 it becomes ISA-L's 1 to 3.
        window_bits: negative, for a stream without header.
        mem_level: zlib's, 1 to 9.
    """
    made: Compressor = isal_zlib.compressobj(
        min(level, 1) and max(1, level // 3), zlib.DEFLATED, window_bits, mem_level
    )
    return made
