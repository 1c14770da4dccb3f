from pywsapp._outbox.outbox cimport Outbox
from pywsapp._protocol.websocket cimport WebSocket
from pywsapp.connection cimport Connection


cdef class StateMachine:
    cdef object _close_event
    cdef object _closing_since
    cdef bint _peer_has_ended
    cdef bint _reads_to_end
    cdef object _unanswered
    cdef WebSocket _ws
    cdef public object before_close
    cdef public Connection conn
    cdef public object is_behind
    cdef public bint is_discarding
    cdef readonly object limit
    cdef readonly Outbox outbox
    cdef readonly int pause_causes
    cdef readonly object state

    cpdef pause_reading(self, int cause)
    cpdef resume_reading(self, int cause)
