cimport cython

from pywsapp._outbox.outbox cimport Flusher, Outbox


cdef class TurnFlusher(Flusher):
    cdef object _at_end
    cdef object _flush
    cdef list _waiting

    @cython.locals(outbox=Outbox)
    cpdef flush(self)
    @cython.locals(room=Py_ssize_t, waiting=list)
    cdef list _outboxes_of_turn(self, list filled)
