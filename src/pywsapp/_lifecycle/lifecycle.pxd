from pywsapp.connection cimport Connection
from pywsapp._lifecycle.eager_step cimport EagerTask
from pywsapp._protocol.websocket cimport WebSocket


cdef class Lifecycle:
    cdef bint _alive
    cdef object _closing_since
    cdef object _component
    cdef object _host
    cdef bint _lost
    cdef Py_ssize_t _max_inflated
    cdef object _on_message
    cdef object _options
    cdef object _pinged
    cdef bint _pong_due
    cdef object _queue
    cdef object _stalled
    cdef WebSocket _ws
    cdef public bint busy
    cdef readonly Connection conn
    cdef public EagerTask eager_task
    cdef public object pending
    cdef public object worker

    cpdef data_received(self, bytes data)
    cdef _follow(self, result)
    cdef _failed(self, exc)
    cdef _enqueue(self, message)
