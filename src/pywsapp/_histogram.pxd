cimport cython

cdef tuple _BOUNDS


cdef class Histogram:
    cdef list _buckets
    cdef double _seconds

    @cython.locals(number=Py_ssize_t)
    cpdef observe(self, double seconds)
