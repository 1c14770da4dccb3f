cdef class Keepalive:
    cdef object _options
    cdef object _pinged
    cdef bint _pong_due
    cdef object _stalled
    cdef public bint is_alive
