from pywsapp._protocol.event_stream cimport EventFormat, EventStream
from pywsapp._protocol.prepared cimport PreparedMessage


cdef class _PlainFormat(EventFormat):
    cpdef bytes encode(self, PreparedMessage message)


cdef class FallbackStream(EventStream):
    cdef object _end
    cdef object _limits
    cdef object _unread

    cpdef list receive(self, bytes data, Py_ssize_t inflate=*, Py_ssize_t messages=*)
