from libc.stdint cimport int32_t, uint32_t, uint64_t

from .opencl cimport cl_handle

cdef struct Arg:
    size_t size
    uint64_t value  # its first bytes

cdef struct Call:
    cl_handle kernel
    bint shared
    Arg* args  # NULL: they are set once
    uint32_t arg_count

cdef int32_t set_args(Call* call, uint32_t* at) noexcept nogil
cdef void drop(Call* call) noexcept

cdef class SharedKernel:
    cdef cl_handle kernel

cdef class Kernels:
    cdef size_t made
    cdef dict shared
    cdef list programs
    cdef set slabs
    cdef int prepare(self, Call* call, launch, program) except -1
    cdef cl_handle _create(self, launch, program) except NULL
    cdef int _note_args(self, Call* call, launch) except -1
