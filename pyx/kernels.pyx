"""Kernel objects with arguments, for the launches of a recording.

The first launches have a cl_kernel each, whose arguments are set once. Drivers take up to 5 KB for one, so later
launches share one for each kernel: their arguments, half a kilobyte, are set before each run, in a microsecond.
"""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from clconv.errors import StateError

from .memory cimport Tensor
from .opencl cimport check, cl, cl_handle

cdef size_t OWN = 32  # launches with a cl_kernel of their own


cdef int32_t set_args(Call* call, uint32_t* at) noexcept nogil:
    """Sets a kernel's arguments; `at`: the one that failed."""
    cdef int32_t status = 0
    at[0] = 0
    while at[0] < call.arg_count:
        status = cl.set_kernel_arg(call.kernel, at[0], call.args[at[0]].size, &call.args[at[0]].value)
        if status != 0:
            break
        at[0] += 1
    return status


cdef void drop(Call* call) noexcept:
    """Frees what a call holds; it may hold nothing."""
    free(call.args)
    if call.kernel != NULL and not call.shared:
        cl.release_kernel(call.kernel)


cdef class SharedKernel:
    """A kernel object that is released with this one."""

    def __dealloc__(self):
        if self.kernel != NULL:
            cl.release_kernel(self.kernel)


cdef class Kernels:
    """The kernels of a recording, with the programs and slabs that they use and that must outlive them."""

    def __init__(self):
        self.made = 0
        self.shared = {}
        self.programs = []
        self.slabs = set()

    cdef int prepare(self, Call* call, launch, program) except -1:
        """Gives the launch a kernel, and sets or notes its arguments; `call` is zeros, `drop` takes it in any case."""
        cdef uint32_t at = 0
        cdef int32_t status
        call.shared = self.made >= OWN
        if call.shared:
            key = program.int_ptr, launch.kernel
            if key not in self.shared:
                self.shared[key] = SharedKernel()
                (<SharedKernel>self.shared[key]).kernel = self._create(launch, program)
            call.kernel = (<SharedKernel>self.shared[key]).kernel
        else:
            call.kernel = self._create(launch, program)
        self.made += 1
        self._note_args(call, launch)
        if not call.shared:
            status = set_args(call, &at)
            free(call.args)
            call.args = NULL
            check(status, f"{launch.label}: argument {at}")
        return 0

    cdef cl_handle _create(self, launch, program) except NULL:
        cdef int32_t status = 0
        cdef bytes name = launch.kernel.encode()
        cdef cl_handle kernel = cl.create_kernel(<cl_handle><size_t>program.int_ptr, name, &status)
        check(status, f"{launch.label}: creating the kernel")
        self.programs.append(program)
        return kernel

    cdef int _note_args(self, Call* call, launch) except -1:
        """Notes a launch's arguments: of a tensor its buffer and its offset."""
        cdef float real
        cdef int32_t whole
        cdef cl_handle handle
        cdef Arg* arg
        call.args = <Arg*>calloc(2 * len(launch.args) + 1, sizeof(Arg))
        if call.args == NULL:
            raise MemoryError(f"{launch.label}: no host memory for arguments")
        arg = call.args
        for value in launch.args:
            if value is None or isinstance(value, Tensor):
                arg.size, arg[1].size = sizeof(cl_handle), 8
                if value is not None:
                    handle, arg[1].value = (<Tensor>value).slab.handle, value.offset
                    if handle == NULL:
                        raise StateError(f"{launch.label}: the memory was released")
                    memcpy(&arg.value, &handle, sizeof(cl_handle))
                    self.slabs.add((<Tensor>value).slab)
                arg += 2
                continue
            arg.size = 4
            if isinstance(value, float):
                real = value
                memcpy(&arg.value, &real, 4)
            else:
                whole = value
                memcpy(&arg.value, &whole, 4)
            arg += 1
        call.arg_count = arg - call.args
        return 0
