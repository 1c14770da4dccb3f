cdef class Subscriber:
    cdef Py_ssize_t _max_topics
    cdef object _topics
    cdef public object component
