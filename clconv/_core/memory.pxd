from .opencl cimport cl_handle

cdef class Slab:
    cdef cl_handle handle
    cdef void* host
    cdef readonly size_t nbytes
    cdef readonly str tag
    cdef readonly object allocator
    cdef object content

cdef class Allocator:
    cdef cl_handle context
    cdef cl_handle queue
    cdef readonly object device
    cdef readonly object budget
    cdef readonly size_t live_bytes
    cdef readonly size_t peak_bytes
    cdef readonly dict by_tag
    cdef int _free(self, Slab slab) except -1

cdef class Tensor:
    cdef readonly Slab slab
    cdef readonly size_t offset_bytes
    cdef readonly size_t nbytes
    cdef readonly object spec
    cdef readonly size_t plane
    cdef readonly size_t depth
