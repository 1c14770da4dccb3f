cimport cython

from pywsapp.connection cimport Connection
from pywsapp._protocol.prepared cimport PreparedMessage


@cython.locals(connection=Connection)
cpdef send_prepared_to_all(list connections, PreparedMessage message, frozenset left_out)
