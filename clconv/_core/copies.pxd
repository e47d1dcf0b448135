from libc.stdint cimport int32_t, uint8_t

from .opencl cimport cl_handle

cdef struct CopyCall:
    uint8_t* host  # the first byte; of what is lent, NULL
    uint8_t** lent  # NULL, or where the start of what is lent is found
    size_t lent_at
    cl_handle buffer
    bint down  # the copy goes to the host
    size_t[3] origin  # bytes from the buffer's start, 0, 0
    size_t[3] region  # bytes of a row, rows, planes
    size_t[2] pitches  # bytes from one row to the next, from one plane to the next
    size_t[2] host_pitches

cdef int32_t enqueue_copy(cl_handle queue, CopyCall* call, cl_handle* before, cl_handle* event) noexcept nogil

cdef class Loans:
    cdef dict known
    cdef int prepare(self, CopyCall* call, copy) except -1
    cdef int check(self) except -1
