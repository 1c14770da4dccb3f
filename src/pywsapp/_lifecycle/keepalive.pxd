cdef class Keepalive:
    cdef double _pinged
    cdef bint _pong_due
    cdef double _stalled_since
    cdef Py_ssize_t _unsent
    cdef public bint is_alive
