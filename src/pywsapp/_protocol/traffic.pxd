cdef class Traffic:
    cdef public long long messages_received
    cdef public long long bytes_received
    cdef public long long messages_sent
    cdef public long long bytes_sent
    cdef public long long messages_dropped
    cdef public long long handshakes
    cdef readonly dict closed
    cdef readonly object measures
