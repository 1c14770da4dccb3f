cdef class Flusher:
    cdef public list filled

    cpdef add(self, connection)
    cpdef schedule(self)


cdef class Outbox:
    cdef public list frames
    cdef public Py_ssize_t size

    cpdef add(self, frame, Py_ssize_t size)
    cpdef take(self, Py_ssize_t limit)
    cpdef drop_oldest(self, Py_ssize_t size)
    cpdef clear(self)


cpdef Py_ssize_t length(frame) except -1
