from pywsapp._histogram cimport Histogram


cdef class Measures:
    cdef readonly Histogram handler_seconds
    cdef readonly Histogram ping_seconds

    cpdef tuple of_connection(self, on_message)
