cimport cython

from pywsapp.connection cimport Connection
from pywsapp.protocol.prepared cimport PreparedMessage


@cython.locals(connection=Connection)
cpdef send_to_all(list connections, PreparedMessage message, frozenset left_out)
