cdef class _Done:
    pass
