"""permessage-deflate with Intel's ISA-L: two to three times as fast as zlib, for output a few per cent larger.

    from pywsapp import App, Deflate, Options
    from pywsapp.isal import compressor

    app = App("localhost", 8080, options=Options(deflate=Deflate(compressor=compressor)))

Only compressing uses ISA-L; zlib is faster at inflating messages. Requires `pip install 'pywsapp[isal]'`.
"""

from __future__ import annotations

import zlib

from pywsapp._extras import missing_extra
from pywsapp.options import Compressor

try:
    from isal import isal_zlib
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "isal") from exc


def compressor(level: int, window_bits: int, mem_level: int) -> Compressor:
    """Return a new compressor; pass this function as `Deflate.compressor`.

    Args:
        level: the level in zlib's scale, 0 to 9; levels above 0 become ISA-L's levels 1 to 3.
        window_bits: the window as a negative number of bits, for a stream without a header.
        mem_level: the memory level in zlib's scale, 1 to 9.
    """
    isal_compressor: Compressor = isal_zlib.compressobj(
        min(level, 1) and max(1, level // 3), zlib.DEFLATED, window_bits, mem_level
    )
    return isal_compressor
