from pywsapp._outbox.outbox cimport Flusher, Outbox
from pywsapp._protocol.prepared cimport PreparedMessage
from pywsapp._protocol.websocket cimport WebSocket
from pywsapp._outbox.subscriber cimport Subscriber


cdef class Connection(Subscriber):
    cdef object __weakref__
    cdef object _close_event
    cdef object _drain_event
    cdef bint _finishing
    cdef Flusher _flusher
    cdef Py_ssize_t _high_water
    cdef bint _lost
    cdef Py_ssize_t _max_outbox
    cdef bint _open
    cdef object _options
    cdef Outbox _outbox
    cdef int _pauses
    cdef object _pings
    cdef object _state
    cdef object _transport
    cdef object _unanswered
    cdef bint _writable
    cdef object _write
    cdef WebSocket _ws
    cdef public object close_code
    cdef public object close_reason
    cdef public bint deaf
    cdef public object id
    cdef public object request
    cdef public object subprotocol
    cdef public bint was_clean

    cpdef send_prepared(self, PreparedMessage message)
    cdef bint _queue(self, frame, Py_ssize_t size) except -1
    cdef bint _make_room(self, Py_ssize_t size) except -1
    cpdef flush(self)
