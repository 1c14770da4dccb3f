from pywsapp._protocol.prepared cimport PreparedMessage
from pywsapp._protocol.websocket cimport WebSocket


cdef class EventFormat:
    cdef bytes _name

    cpdef bytes encode(self, PreparedMessage message)
    cpdef bytes event(self, int opcode, bytes payload)


cdef class EventStream(WebSocket):
    cdef EventFormat _format
    cdef Py_ssize_t _received
    cdef double _retry

    cpdef bytes encode(self, message, compress=*)
    cpdef bytes encode_prepared(self, PreparedMessage message)
    cpdef list receive(self, bytes data, Py_ssize_t inflate=*, Py_ssize_t messages=*)
