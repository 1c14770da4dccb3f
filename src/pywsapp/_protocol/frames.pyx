"""The compiled build's version of `frames.py`: the same functions, without the copies that Python has to make."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

# `len` raises TypeError for None, which other extension modules can pass; PyBytes_GET_SIZE and the like would read
# whatever is in memory behind None.

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    const void *PyUnicode_DATA(object text)
    PyObject *_new_bytes "PyBytes_FromStringAndSize"(const char *text, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject **text, Py_ssize_t size) except -1

#: The result of `long_size` for an invalid length: one not encoded in the shortest form, or one of 2 ** 62 and more.
WRONG_SIZE = 1 << 62

cdef Py_ssize_t _WRONG_SIZE = WRONG_SIZE

cdef enum:
    ON_STACK = 512  # bytes of text that are unmasked on the stack
    FIRST_CAPACITY = 4096


cdef inline void _xor(const char *source, char *target, Py_ssize_t size, const char *mask) noexcept nogil:
    cdef uint32_t half
    cdef uint64_t key, word
    cdef Py_ssize_t i = 0
    memcpy(&half, mask, 4)
    key = half
    key |= key << 32
    while i + 8 <= size:
        memcpy(&word, source + i, 8)
        word ^= key
        memcpy(target + i, &word, 8)
        i += 8
    while i < size:
        target[i] = source[i] ^ mask[i & 3]
        i += 1


cpdef bytes apply_mask(bytes data, bytes mask):
    """XOR a payload with its 4-byte masking key, in either direction (RFC 6455 section 5.3)."""
    cdef Py_ssize_t size = len(data)
    if len(mask) != 4:
        raise ValueError("a masking key must have four bytes")
    cdef bytes masked = PyBytes_FromStringAndSize(NULL, size)
    _xor(PyBytes_AS_STRING(data), PyBytes_AS_STRING(masked), size, PyBytes_AS_STRING(mask))
    return masked


cdef inline int _check(bytes data, Py_ssize_t start, Py_ssize_t stop) except -1:
    if start < 4 or stop < start or stop > len(data):
        raise ValueError("a payload must follow its masking key and lie within the data")
    return 0


cpdef bytes unmask(bytes data, Py_ssize_t start, Py_ssize_t stop):
    """Return the unmasked payload between `start` and `stop`; its masking key is the four bytes before `start`."""
    _check(data, start, stop)
    cdef const char *source = PyBytes_AS_STRING(data) + start
    cdef bytes payload = PyBytes_FromStringAndSize(NULL, stop - start)
    _xor(source, PyBytes_AS_STRING(payload), stop - start, source - 4)
    return payload


cpdef str unmask_text(bytes data, Py_ssize_t start, Py_ssize_t stop):
    """Return the unmasked payload between `start` and `stop` as text.

    Raises:
        UnicodeDecodeError: the payload is not UTF-8.
    """
    _check(data, start, stop)
    cdef const char *source = PyBytes_AS_STRING(data) + start
    cdef Py_ssize_t size = stop - start
    cdef char buffer[ON_STACK]
    if size > ON_STACK:
        return unmask(data, start, stop).decode()
    _xor(source, buffer, size, source - 4)
    return PyUnicode_DecodeUTF8(buffer, size, NULL)


cpdef Py_ssize_t long_size(bytes data, Py_ssize_t position) except -1:
    """Return the extended payload length of the frame at a position (RFC 6455 section 5.2).

    All bytes of the length must have arrived. The result for an invalid length is `WRONG_SIZE`.
    """
    if position >= len(data):
        raise IndexError("the frame must begin in the data")
    cdef int width = 2 if data[position + 1] & 0x7F == 126 else 8
    cdef uint64_t size = 0
    cdef Py_ssize_t at
    for at in range(position + 2, position + 2 + width):
        size = size << 8 | data[at]
    if size < (126 if width == 2 else 65536) or size >= <uint64_t>_WRONG_SIZE:
        return _WRONG_SIZE
    return size


cdef class PayloadBuffer:
    """The part of a payload that has arrived.

    At most four times as much memory is allocated, because announcing a large payload costs a peer nothing.

    Args:
        size: bytes that the header announces.
    """

    def __init__(self, Py_ssize_t size):
        if size < 0:
            raise ValueError("a payload must not have a negative size")
        Py_XDECREF(self._buffer)  # of an object that is initialised again
        self._buffer = NULL
        self._size = 0
        self._expected = size
        self._capacity = min(size, FIRST_CAPACITY)
        self._buffer = _new_bytes(NULL, self._capacity)

    def __dealloc__(self):
        Py_XDECREF(self._buffer)

    cpdef add(self, bytes data, Py_ssize_t start, Py_ssize_t stop, bytes mask):
        """Append the bytes between `start` and `stop`, unmasked unless the mask is empty."""
        if start < 0 or stop < start or stop > len(data):
            raise ValueError("a part must lie within the data")
        cdef Py_ssize_t size = stop - start
        cdef const char *source = PyBytes_AS_STRING(data) + start
        self._reserve(self._size + size)
        if not len(mask):
            memcpy(PyBytes_AS_STRING(<object>self._buffer) + self._size, source, size)
        elif len(mask) == 4:
            _xor(source, PyBytes_AS_STRING(<object>self._buffer) + self._size, size, PyBytes_AS_STRING(mask))
        else:
            raise ValueError("a masking key must have four bytes")
        self._size += size

    cdef int _reserve(self, Py_ssize_t size) except -1:
        if self._buffer is NULL:  # the payload was returned before, or memory ran out
            raise MemoryError
        if size > self._capacity:
            self._capacity = max(size, min(max(self._expected, self._capacity + self._capacity // 8 + 64), 4 * size))
            _PyBytes_Resize(&self._buffer, self._capacity)
        return 0

    cpdef bytes since(self, Py_ssize_t start):
        """Return the payload from an offset on."""
        self._reserve(0)
        if start < 0 or start > self._size:
            raise ValueError("the offset must lie within the payload")
        return PyBytes_AS_STRING(<object>self._buffer)[start : self._size]

    cpdef bytes payload(self):
        """Return the whole payload; call it once, at the end."""
        cdef bytes whole
        self._reserve(0)
        if self._size != self._capacity:
            _PyBytes_Resize(&self._buffer, self._size)
        whole = <bytes>self._buffer
        Py_XDECREF(self._buffer)
        self._buffer = NULL
        return whole


cdef inline char *_begin_frame(bytes frame, int first, int mask_bit, Py_ssize_t size) noexcept:
    cdef unsigned char *head = <unsigned char *>PyBytes_AS_STRING(frame)
    cdef int shift
    head[0] = first
    if size < 126:
        head[1] = mask_bit | size
        return <char *>head + 2
    if size < 65536:
        head[1] = mask_bit | 126
        head[2] = size >> 8
        head[3] = size & 255
        return <char *>head + 4
    head[1] = mask_bit | 127
    for shift in range(8):
        head[2 + shift] = (<uint64_t>size >> (56 - 8 * shift)) & 255
    return <char *>head + 10


cdef inline Py_ssize_t _head_size(Py_ssize_t size) noexcept:
    return 2 if size < 126 else 4 if size < 65536 else 10


cpdef bytes encode_frame(int first, bytes payload):
    """Return an unmasked frame, as servers send it; `first` is FIN, RSV bits and opcode."""
    cdef Py_ssize_t size = len(payload)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, _head_size(size) + size)
    memcpy(_begin_frame(frame, first, 0, size), PyBytes_AS_STRING(payload), size)
    return frame


cpdef bytes frame_head(int first, Py_ssize_t size):
    """Return the bytes before an unmasked payload of a size."""
    cdef bytes head = PyBytes_FromStringAndSize(NULL, _head_size(size))
    _begin_frame(head, first, 0, size)
    return head


cpdef bytes encode_text_frame(int first, str text):
    """Return an unmasked frame for text that is a whole message.

    Raises:
        UnicodeEncodeError: the text has no UTF-8 form.
    """
    cdef Py_ssize_t size = len(text)
    if not PyUnicode_IS_ASCII(text):
        return encode_frame(first, text.encode())
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, _head_size(size) + size)
    memcpy(_begin_frame(frame, first, 0, size), PyUnicode_DATA(text), size)
    return frame


cpdef bytes encode_masked_frame(int first, bytes payload):
    """Return a masked frame, as clients send it, with a new unpredictable key."""
    cdef Py_ssize_t size = len(payload)
    cdef bytes mask = os.urandom(4)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, _head_size(size) + 4 + size)
    cdef char *payload_start = _begin_frame(frame, first, 0x80, size)
    memcpy(payload_start, PyBytes_AS_STRING(mask), 4)
    _xor(PyBytes_AS_STRING(payload), payload_start + 4, size, PyBytes_AS_STRING(mask))
    return frame


cpdef bytes rotate_mask(bytes mask, Py_ssize_t count):
    """Return the masking key for the part of a payload that follows after `count` bytes."""
    cdef Py_ssize_t shift = count & 3
    return mask[shift:] + mask[:shift]
