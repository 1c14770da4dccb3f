cdef class EagerTask:
    cdef object _loop
    cdef object _run
    cdef object _task
    cdef readonly object returned

    cpdef first_step(self, coroutine)
    cpdef call(self, function, argument)
    cpdef take_returned(self)
