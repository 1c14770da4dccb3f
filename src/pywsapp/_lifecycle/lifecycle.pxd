from pywsapp._lifecycle.eager_step cimport EagerTask
from pywsapp._lifecycle.keepalive cimport Keepalive
from pywsapp._lifecycle.state_machine cimport StateMachine
from pywsapp._protocol.websocket cimport WebSocket
from pywsapp.connection cimport Connection

cimport cython


cdef class Lifecycle:
    cdef object _calls
    cdef object _component
    cdef EagerTask _eager_task
    cdef object _handler_task
    cdef object _host
    cdef Keepalive _keepalive
    cdef Py_ssize_t _max_inflated
    cdef Py_ssize_t _max_queue
    cdef object _on_message
    cdef object _options
    cdef object _pings
    cdef readonly object _queue
    cdef object _subscriptions
    cdef readonly WebSocket _ws
    cdef readonly StateMachine machine
    cdef readonly Connection conn
    cdef readonly bint is_busy
    cdef readonly object lifetime

    @cython.locals(ws=WebSocket, machine=StateMachine, room=Py_ssize_t, inflate=Py_ssize_t, turn_ends=double, now=double,
                   number=Py_ssize_t)
    cpdef data_received(self, bytes data)
    @cython.locals(was_busy=bint)
    cdef _follow(self, result)
    cdef _wake_handler_task(self)
    cdef _read_on(self)
    cdef _enqueue(self, message)
