from pywsapp._protocol.frames cimport encode_frame, encode_masked_frame, encode_text_frame
from pywsapp._protocol.prepared cimport PreparedMessage
from pywsapp._protocol.traffic cimport Traffic

cdef int _TEXT_FRAME, _BINARY_FRAME


cdef class Sender:
    cdef object _deflate
    cdef object _options
    cdef bint _plain
    cdef int _window_bits
    cdef readonly bint client
    cdef public Traffic traffic

    cpdef bytes encode(self, message, compress=*)
    cdef bytes _encode_payload(self, int opcode, bytes payload, compress)
    cpdef bytes encode_prepared(self, PreparedMessage message)
    cdef bint _compresses(self, bytes payload, compress) except -1
    cdef bytes _frame(self, int first, bytes payload)
