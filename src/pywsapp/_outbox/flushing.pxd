cimport cython

from pywsapp.connection cimport Connection
from pywsapp._outbox.outbox cimport Flusher


cdef class TurnFlusher(Flusher):
    cdef object _at_end
    cdef object _flush
    cdef object _waiting

    @cython.locals(connection=Connection)
    cpdef flush(self)
    cdef list _share_out(self, list filled)
