from pywsapp._lifecycle.reading cimport Reading
from pywsapp._outbox.outbox cimport Outbox
from pywsapp._protocol.websocket cimport WebSocket
from pywsapp.connection cimport Connection


cdef class ClosingHandshake:
    cdef object _close_event
    cdef object _close_timeout
    cdef object _closing_since
    cdef object _transport
    cdef object _unanswered
    cdef WebSocket _ws
    cdef public Connection conn
    cdef public bint is_discarding
    cdef readonly Outbox outbox
    cdef readonly Reading reading
    cdef readonly object state
