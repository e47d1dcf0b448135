# OpenCL entry points as C function pointers, taken from the loader that PyOpenCL uses.

from libc.stdint cimport int32_t, uint32_t, uint64_t

ctypedef void* cl_handle

cdef struct EntryPoints:
    cl_handle (*create_buffer)(cl_handle context, uint64_t flags, size_t size, void* host,
                               int32_t* status) noexcept nogil
    int32_t (*release_buffer)(cl_handle buffer) noexcept nogil
    void* (*share)(cl_handle context, uint64_t flags, size_t size, uint32_t alignment) noexcept nogil
    void (*unshare)(cl_handle context, void* memory) noexcept nogil
    int32_t (*retain_context)(cl_handle context) noexcept nogil
    int32_t (*release_context)(cl_handle context) noexcept nogil
    int32_t (*retain_queue)(cl_handle queue) noexcept nogil
    int32_t (*release_queue)(cl_handle queue) noexcept nogil
    cl_handle (*create_kernel)(cl_handle program, const char* name, int32_t* status) noexcept nogil
    int32_t (*release_kernel)(cl_handle kernel) noexcept nogil
    int32_t (*set_kernel_arg)(cl_handle kernel, uint32_t index, size_t size, const void* value) noexcept nogil
    int32_t (*enqueue_kernel)(cl_handle queue, cl_handle kernel, uint32_t dims, const size_t* offset,
                              const size_t* global_size, const size_t* local_size,
                              uint32_t n_wait, const cl_handle* wait, cl_handle* event) noexcept nogil
    int32_t (*enqueue_read)(cl_handle queue, cl_handle buffer, uint32_t blocking, size_t offset, size_t size,
                            void* host, uint32_t n_wait, const cl_handle* wait, cl_handle* event) noexcept nogil
    int32_t (*enqueue_write)(cl_handle queue, cl_handle buffer, uint32_t blocking, size_t offset, size_t size,
                             const void* host, uint32_t n_wait, const cl_handle* wait, cl_handle* event) noexcept nogil
    int32_t (*enqueue_copy)(cl_handle queue, cl_handle source, cl_handle target, size_t source_offset,
                            size_t target_offset, size_t size, uint32_t n_wait, const cl_handle* wait,
                            cl_handle* event) noexcept nogil
    int32_t (*enqueue_fill)(cl_handle queue, cl_handle buffer, const void* pattern, size_t pattern_size,
                            size_t offset, size_t size, uint32_t n_wait, const cl_handle* wait,
                            cl_handle* event) noexcept nogil
    int32_t (*finish)(cl_handle queue) noexcept nogil
    int32_t (*flush)(cl_handle queue) noexcept nogil
    int32_t (*enqueue_marker)(cl_handle queue, uint32_t n_wait, const cl_handle* wait, cl_handle* event) noexcept nogil
    int32_t (*wait_for_events)(uint32_t count, const cl_handle* events) noexcept nogil
    int32_t (*event_profile)(cl_handle event, uint32_t what, size_t size, void* value, size_t* needed) noexcept nogil
    int32_t (*release_event)(cl_handle event) noexcept nogil
    int32_t (*event_info)(cl_handle event, uint32_t what, size_t size, void* value, size_t* needed) noexcept nogil
    int32_t (*enqueue_read_rows)(cl_handle queue, cl_handle buffer, uint32_t blocking, const size_t* origin,
                                 const size_t* host_origin, const size_t* region, size_t pitch, size_t slice,
                                 size_t host_pitch, size_t host_slice, void* host, uint32_t n_wait,
                                 const cl_handle* wait, cl_handle* event) noexcept nogil
    int32_t (*enqueue_write_rows)(cl_handle queue, cl_handle buffer, uint32_t blocking, const size_t* origin,
                                  const size_t* host_origin, const size_t* region, size_t pitch, size_t slice,
                                  size_t host_pitch, size_t host_slice, const void* host, uint32_t n_wait,
                                  const cl_handle* wait, cl_handle* event) noexcept nogil

cdef EntryPoints cl

cpdef void load() except *
cdef int check(int32_t status, object where) except -1
