"""The OpenCL calls of the hot path: soft-linked, checked, callable without the GIL.

The symbols come from the very loader that PyOpenCL is linked to (its wheels carry a renamed copy, so
opening libOpenCL by name may open a second one). Contexts, builds and queries stay in PyOpenCL.
"""

import ctypes

from libc.string cimport memcpy

from clconv.errors import OpenCLError, OutOfMemoryError, status_name

# CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_RESOURCES, CL_OUT_OF_HOST_MEMORY
_OUT_OF_MEMORY = (-4, -5, -6)

cdef bint _loaded = False

_SYMBOLS = {
    "create_buffer": "clCreateBuffer",
    "release_buffer": "clReleaseMemObject",
    "share": "clSVMAlloc",
    "unshare": "clSVMFree",
    "retain_context": "clRetainContext",
    "release_context": "clReleaseContext",
    "retain_queue": "clRetainCommandQueue",
    "release_queue": "clReleaseCommandQueue",
    "create_kernel": "clCreateKernel",
    "release_kernel": "clReleaseKernel",
    "set_kernel_arg": "clSetKernelArg",
    "enqueue_kernel": "clEnqueueNDRangeKernel",
    "enqueue_read": "clEnqueueReadBuffer",
    "enqueue_write": "clEnqueueWriteBuffer",
    "enqueue_copy": "clEnqueueCopyBuffer",
    "enqueue_fill": "clEnqueueFillBuffer",
    "finish": "clFinish",
    "flush": "clFlush",
    "enqueue_marker": "clEnqueueMarkerWithWaitList",
    "wait_for_events": "clWaitForEvents",
    "event_profile": "clGetEventProfilingInfo",
    "release_event": "clReleaseEvent",
    "event_info": "clGetEventInfo",
    "enqueue_read_rows": "clEnqueueReadBufferRect",
    "enqueue_write_rows": "clEnqueueWriteBufferRect",
}


cdef int _take(void* slot, object library, str field) except -1:
    cdef size_t address = ctypes.cast(getattr(library, _SYMBOLS[field]), ctypes.c_void_p).value
    memcpy(slot, &address, sizeof(address))
    return 0


cpdef void load() except *:
    """Fills the table of entry points; the first call needs PyOpenCL to be importable."""
    global _loaded
    if _loaded:
        return
    from clconv.drivers import opencl as pyopencl

    library = ctypes.CDLL(pyopencl()._cl.__file__)
    _take(&cl.create_buffer, library, "create_buffer")
    _take(&cl.release_buffer, library, "release_buffer")
    _take(&cl.share, library, "share")
    _take(&cl.unshare, library, "unshare")
    _take(&cl.retain_context, library, "retain_context")
    _take(&cl.release_context, library, "release_context")
    _take(&cl.retain_queue, library, "retain_queue")
    _take(&cl.release_queue, library, "release_queue")
    _take(&cl.create_kernel, library, "create_kernel")
    _take(&cl.release_kernel, library, "release_kernel")
    _take(&cl.set_kernel_arg, library, "set_kernel_arg")
    _take(&cl.enqueue_kernel, library, "enqueue_kernel")
    _take(&cl.enqueue_read, library, "enqueue_read")
    _take(&cl.enqueue_write, library, "enqueue_write")
    _take(&cl.enqueue_copy, library, "enqueue_copy")
    _take(&cl.enqueue_fill, library, "enqueue_fill")
    _take(&cl.finish, library, "finish")
    _take(&cl.flush, library, "flush")
    _take(&cl.enqueue_marker, library, "enqueue_marker")
    _take(&cl.wait_for_events, library, "wait_for_events")
    _take(&cl.event_profile, library, "event_profile")
    _take(&cl.release_event, library, "release_event")
    _take(&cl.event_info, library, "event_info")
    _take(&cl.enqueue_read_rows, library, "enqueue_read_rows")
    _take(&cl.enqueue_write_rows, library, "enqueue_write_rows")
    _loaded = True


cdef int check(int32_t status, object where) except -1:
    """Raises for a status other than CL_SUCCESS; `where` names the call, kernel or layer."""
    if status == 0:
        return 0
    if status in _OUT_OF_MEMORY:
        raise OutOfMemoryError(f"{where}: the device is out of memory: {status_name(status)} ({status})")
    raise OpenCLError(status, where)
