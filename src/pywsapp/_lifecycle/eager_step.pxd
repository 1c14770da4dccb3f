cdef class EagerTask:
    cdef object _loop
    cdef object _run
    cdef object _task

    cpdef begin(self, coroutine)
    cpdef call(self, function, argument)
