cimport cython

from pywsapp._outbox.threads cimport current_thread
from pywsapp._protocol.prepared cimport PreparedMessage
from pywsapp._protocol.traffic cimport Traffic
from pywsapp._protocol.websocket cimport WebSocket


cdef class Flusher:
    cdef public list filled
    cdef readonly unsigned long thread

    cpdef add(self, outbox)
    cpdef schedule(self)


cdef class Outbox:
    cdef object _drained
    cdef Flusher _flusher
    cdef bint _is_lost
    cdef object _large
    cdef Py_ssize_t _max_size
    cdef object _owner
    cdef object _policy
    cdef WebSocket _ws
    cdef readonly list frames
    cdef readonly Py_ssize_t high_water
    cdef public bint is_open
    cdef readonly bint is_writable
    cdef public bint reports_empty
    cdef readonly Py_ssize_t size
    cdef readonly object transport

    cpdef send(self, message, compress)
    @cython.locals(frame=bytes)
    cpdef send_prepared(self, PreparedMessage message)
    cpdef add_last(self, frame)
    cpdef check_thread(self, str what)
    @cython.locals(traffic=Traffic)
    cdef bint _queue(self, frame, Py_ssize_t size) except -1
    @cython.locals(traffic=Traffic)
    cdef bint _make_room(self, Py_ssize_t size) except -1
    @cython.locals(limit=Py_ssize_t)
    cpdef flush(self)
    cpdef bint is_empty(self)
    cdef _report_empty(self)
    cdef Py_ssize_t _limit_of_next_write(self) except -1
    cdef _write_large(self, bytes pongs, frame)
    cdef _send_pieces(self)
    cpdef wake(self)
    @cython.locals(number=Py_ssize_t, size=Py_ssize_t)
    cpdef take(self, Py_ssize_t limit)
    cpdef drop_oldest(self, Py_ssize_t size)
    cpdef clear(self)


@cython.locals(head_size=Py_ssize_t, size=Py_ssize_t)
cpdef Py_ssize_t length(frame) except -1
cdef bytes _joined(list frames)
