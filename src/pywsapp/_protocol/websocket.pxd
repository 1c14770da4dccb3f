cimport cython

from pywsapp._protocol.frames cimport long_size, unmask, unmask_text
from pywsapp._protocol.sending cimport Sender

cdef object _OPEN, _CLOSING, _CLOSED
cdef Py_ssize_t _ANY_NUMBER, _FRAMES_A_MESSAGE


cdef class WebSocket(Sender):
    cdef double _control_budget
    cdef Py_ssize_t _frames_left
    cdef Py_ssize_t _inflate_budget
    cdef int _kind_bits
    cdef object _last_tick
    cdef int _mask_bit
    cdef Py_ssize_t _max_frame
    cdef object _partial
    cdef object _pongs
    cdef int _pongs_due
    cdef long long _started
    cdef bytes _tail
    cdef Py_ssize_t _tail_start
    cdef object _unfinished
    cdef object _wsproto
    cdef Py_ssize_t _wsproto_remaining
    cdef public object control_limit
    cdef readonly bint has_more
    cdef readonly bint has_pongs
    cdef readonly object state

    cpdef list receive(self, bytes data, Py_ssize_t inflate=*, Py_ssize_t messages=*)

    @cython.locals(position=Py_ssize_t, end=Py_ssize_t, start=Py_ssize_t, stop=Py_ssize_t, size=Py_ssize_t,
                   first=int, second=int, kind=int, reading=bint)
    cdef _read(self, bytes data, list events, Py_ssize_t room)
    cdef bint _fits(self, int first, Py_ssize_t size) except -1
    cdef _inflate(self, int first, bytes data, Py_ssize_t start, Py_ssize_t stop)

    @cython.locals(start=Py_ssize_t, stop=Py_ssize_t, size=Py_ssize_t, first=int, second=int, kind=int,
                   is_fragment=bint)
    cdef Py_ssize_t _read_other(self, bytes data, Py_ssize_t position, list events) except -2
    cdef Py_ssize_t _begin_frame(self, int first, Py_ssize_t size, bytes data, Py_ssize_t start, list events) except -2
    cdef Py_ssize_t _continue_frame(self, bytes data, Py_ssize_t start, list events) except -2

    @cython.locals(start=Py_ssize_t, stop=Py_ssize_t, size=Py_ssize_t, first=int, second=int, complete=bint)
    cdef Py_ssize_t _read_control(self, bytes data, Py_ssize_t position, list events) except -1
    cdef _queue_pong(self, bytes payload)
    cdef _reply_close(self, bytes payload, list events)
    cdef bint _count_control(self, int opcode) except -1

    @cython.locals(first=int, second=int, is_fragmented=bint, is_within=bint)
    cdef Py_ssize_t _read_by_wsproto(self, bytes data, Py_ssize_t position, Py_ssize_t size, list events) except -2
    cdef Py_ssize_t _feed_wsproto(self, bytes data, Py_ssize_t position, Py_ssize_t size, list events) except -2

    cpdef bytes take_pongs(self)
