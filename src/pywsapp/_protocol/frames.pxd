from cpython.ref cimport PyObject


cpdef bytes apply_mask(bytes data, bytes mask)
cpdef bytes unmask(bytes data, Py_ssize_t start, Py_ssize_t stop)
cpdef str unmask_text(bytes data, Py_ssize_t start, Py_ssize_t stop)
cpdef Py_ssize_t long_size(bytes data, Py_ssize_t position) except -1
cpdef bytes encode_frame(int first, bytes payload)
cpdef bytes frame_head(int first, Py_ssize_t size)
cpdef bytes encode_text_frame(int first, str text)
cpdef bytes encode_masked_frame(int first, bytes payload)
cpdef bytes rotate_mask(bytes mask, Py_ssize_t count)


cdef class PayloadBuffer:
    cdef PyObject *_buffer
    cdef Py_ssize_t _expected
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _size

    cpdef add(self, bytes data, Py_ssize_t start, Py_ssize_t stop, bytes mask)
    cdef int _reserve(self, Py_ssize_t size) except -1
    cpdef bytes since(self, Py_ssize_t start)
    cpdef bytes payload(self)
