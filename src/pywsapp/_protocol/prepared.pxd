from pywsapp._protocol.frames cimport encode_frame


cdef class PreparedMessage:
    cdef dict _frames
    cdef bytes _plain
    cdef public object compress
    cdef public int opcode
    cdef public bytes payload
    cdef public object publication

    cpdef bytes plain_frame(self)
    cpdef bytes deflated_frame(self, int bits, config)
    cpdef bytes _frame_in(self, wire_format)
