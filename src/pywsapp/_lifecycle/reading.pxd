cdef class Reading:
    cdef readonly int causes
    cdef public bint is_ended
    cdef object _transport

    cpdef pause(self, int cause)
    cpdef resume(self, int cause)
