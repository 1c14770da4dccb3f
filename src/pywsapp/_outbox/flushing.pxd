cimport cython

from pywsapp._outbox.outbox cimport Flusher, Outbox


cdef class TurnFlusher(Flusher):
    cdef object _at_end
    cdef object _flush
    cdef object _waiting

    @cython.locals(outbox=Outbox)
    cpdef flush(self)
    cdef list _outboxes_of_turn(self, list filled)
