cimport cython

from pywsapp._outbox.outbox cimport Outbox
from pywsapp._protocol.prepared cimport PreparedMessage


cdef class Connection:
    cdef object __weakref__
    cdef readonly object _driver
    cdef readonly Outbox _outbox
    cdef readonly object close_code
    cdef readonly object close_reason
    cdef readonly object id
    cdef readonly object request
    cdef readonly object subprotocol
    cdef readonly bint was_clean


@cython.locals(connection=Connection, first=Connection, several=bint)
cpdef send_prepared_to_all(list connections, PreparedMessage message, frozenset exclude)
