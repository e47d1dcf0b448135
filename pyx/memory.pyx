"""The one allocator: slabs of device memory, a ledger by tag, the budget and the peak.

Nothing else in clconv creates a cl_mem, so `peak_bytes` is what the network really took.

Where a device shares memory with the host, byte for byte (fine-grained shared virtual memory: processors), slabs are
such memory: to read or write it is a copy by the host once the queue is empty. A command would wake another thread and
wait for it, twice 5 to 10 microseconds.
"""

from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memcpy, memset

cimport cython

import numpy as np

from clconv.errors import ArgumentError, BudgetError, OutOfMemoryError, StateError, status_name
from clconv.shapes import ALIGN, aligned

from . cimport opencl
from .opencl cimport check, cl

cdef size_t READ_WRITE = 1
cdef size_t READ_ONLY = 1 << 2
cdef size_t USE_HOST_POINTER = 1 << 3
cdef size_t FINE_GRAINED = 1 << 10
cdef int32_t OUT_OF_RESOURCES = -5


@cython.no_gc_clear  # its allocator is needed to the end
cdef class Slab:
    """One cl_mem, owned by its allocator. Freed by `release`, or with the last reference."""

    def release(self):
        """Gives the memory back; a second call does nothing."""
        if self.handle != NULL:
            (<Allocator>self.allocator)._free(self)

    @property
    def released(self) -> bool:
        return self.handle == NULL

    def __dealloc__(self):
        if self.handle != NULL:
            (<Allocator>self.allocator)._free(self)


@cython.no_gc_clear
cdef class Allocator:
    """Device memory of one network.

    Args:
        device: the `Device` whose context and queue are used.
        budget: the most bytes that may be live at once, or None.
    """

    def __init__(self, device, budget=None):
        opencl.load()
        self.device = device
        self.context = <cl_handle><size_t>device.context.int_ptr
        self.queue = <cl_handle><size_t>device.queue.int_ptr
        cl.retain_context(self.context)
        cl.retain_queue(self.queue)
        self.budget = budget
        self.by_tag = {}

    def __dealloc__(self):
        if self.queue != NULL:
            cl.release_queue(self.queue)
            cl.release_context(self.context)

    def allocate(self, size_t nbytes, str tag, str who="memory") -> Slab:
        """A slab of `nbytes` (a multiple of the alignment is taken).

        Raises:
            BudgetError: it would pass the budget; nothing was allocated.
            OutOfMemoryError: the device refuses; `who` is named, with the bytes wanted and held.
        """
        cdef int32_t status = 0
        cdef Slab slab
        nbytes = max(aligned(nbytes), ALIGN)
        if self.budget is not None and self.live_bytes + nbytes > self.budget:
            raise BudgetError(
                f"{who}: {nbytes} bytes for {tag} on top of {self.live_bytes} held pass the budget of "
                f"{self.budget}; nothing was allocated"
            )
        if nbytes > self.device.facts.max_alloc_bytes:
            raise OutOfMemoryError(
                f"{who}: {nbytes} bytes for {tag} in one piece, but {self.device.facts.name} allows at most "
                f"{self.device.facts.max_alloc_bytes} per allocation ({self.live_bytes} held)"
            )
        slab = Slab.__new__(Slab)
        slab.handle, slab.host = NULL, NULL
        if self.device.facts.shares_memory:
            slab.host = cl.share(self.context, READ_WRITE | FINE_GRAINED, nbytes, 0)
            status = OUT_OF_RESOURCES if slab.host == NULL else 0
        if status == 0:
            slab.handle = cl.create_buffer(
                self.context, READ_WRITE | (USE_HOST_POINTER if slab.host != NULL else 0), nbytes, slab.host, &status
            )
        if status != 0:
            if slab.host != NULL:
                cl.unshare(self.context, slab.host)
            slab.handle, slab.host = NULL, NULL
            raise OutOfMemoryError(
                f"{who}: {self.device.facts.name} refused {nbytes} bytes for {tag} with {self.live_bytes} bytes "
                f"held: {status_name(status)} ({status})"
            )
        slab.nbytes = nbytes
        slab.tag = tag
        slab.allocator = self
        self.live_bytes += nbytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.by_tag[tag] = self.by_tag.get(tag, 0) + nbytes
        return slab

    def wrap(self, content, str tag, str who="memory", bint writable=False) -> Slab:
        """A slab that is memory of the host, as a mapped file is: none of the device's, so not counted.

        Args:
            content: bytes from a page's start; kept alive with the slab. writable: kernels may change it.
        """
        cdef int32_t status = 0
        cdef size_t flags = (READ_WRITE if writable else READ_ONLY) | USE_HOST_POINTER
        cdef const uint8_t[::1] data = content
        cdef Slab slab = Slab.__new__(Slab)
        slab.host = NULL
        slab.handle = cl.create_buffer(self.context, flags, len(data), <void*>&data[0], &status)
        if status != 0:
            slab.handle = NULL
            raise OutOfMemoryError(
                f"{who}: {self.device.facts.name} refused to map {len(data)} bytes for {tag}: "
                f"{status_name(status)} ({status})"
            )
        slab.nbytes = len(data)
        slab.tag = tag
        slab.allocator = self
        slab.content = content
        self.by_tag[tag] = self.by_tag.get(tag, 0) + slab.nbytes
        return slab

    cdef int _free(self, Slab slab) except -1:
        if slab.host != NULL or slab.content is not None:
            cl.finish(self.queue)  # nothing keeps memory of the host's from being freed in use
        cl.release_buffer(slab.handle)
        if slab.host != NULL:
            cl.unshare(self.context, slab.host)
        slab.handle, slab.host = NULL, NULL
        if slab.content is None:
            self.live_bytes -= slab.nbytes
        slab.content = None
        self.by_tag[slab.tag] -= slab.nbytes
        if not self.by_tag[slab.tag]:
            del self.by_tag[slab.tag]
        return 0

    def fill(self, Slab slab, uint8_t byte=0):
        """Sets every byte of a slab. Also commits it: drivers allocate lazily, so only now it is known to fit."""
        with_name = f"filling {slab.nbytes} bytes of {slab.tag}"
        cdef uint8_t* host = <uint8_t*>slab.host
        cdef size_t n = slab.nbytes
        if host != NULL:  # drivers may fill a copy of the memory first
            check(cl.finish(self.queue), with_name)
            with nogil:
                memset(host, byte, n)
            return
        check(cl.enqueue_fill(self.queue, slab.handle, &byte, 1, 0, slab.nbytes, 0, NULL, NULL), with_name)
        check(cl.finish(self.queue), with_name)


cdef class Tensor:
    """A piece of a slab with the spec of what it holds.

    Attributes:
        spec: TensorSpec. nbytes: stored bytes, layout padding included. offset_bytes: from the slab's start.
        plane: of channel blocks, pixels from one block to the next; 0: as many as the spec has.
        depth: of channel blocks, blocks from one image to the next; 0: as many as the spec has.
    """

    def __init__(self, Slab slab, size_t offset_bytes, spec, size_t nbytes, size_t plane=0, size_t depth=0):
        assert offset_bytes % 4 == 0 and offset_bytes + nbytes <= slab.nbytes
        self.slab = slab
        self.offset_bytes = offset_bytes
        self.nbytes = nbytes
        self.spec = spec
        self.plane = plane
        self.depth = depth

    @property
    def offset(self) -> int:
        """Elements from the slab's start; bytes count as parts of float32 values."""
        return self.offset_bytes // (2 if self.spec is not None and self.spec.dtype == "float16" else 4)

    def part(self, size_t offset_bytes, size_t nbytes, spec) -> Tensor:
        """A tensor inside this one, e.g. one of several workspaces."""
        assert offset_bytes + nbytes <= self.nbytes
        return Tensor(self.slab, self.offset_bytes + offset_bytes, spec, nbytes)

    def write(self, array, str who="upload", bint wait=True):
        """Copies a C-contiguous array of exactly `nbytes` bytes to the device.

        With wait=False the array must stay unchanged until the queue has passed the copy.
        """
        cdef const uint8_t[::1] data = _bytes(array, self.nbytes, who)
        cdef Allocator owner = <Allocator>self.slab.allocator
        cdef size_t n = self.nbytes
        cdef cl_handle handle = _alive(self.slab, who)
        cdef size_t offset = self.offset_bytes
        cdef int32_t status
        cdef int blocking = wait
        cdef uint8_t* host = <uint8_t*>self.slab.host
        with nogil:
            if host == NULL:
                status = cl.enqueue_write(owner.queue, handle, blocking, offset, n, &data[0], 0, NULL, NULL)
            else:
                status = cl.finish(owner.queue)
                memcpy(host + offset, &data[0], n)
        check(status, who)

    def read(self, array, str who="download"):
        """Waits for the queue and copies the tensor into a C-contiguous array of exactly `nbytes` bytes."""
        cdef uint8_t[::1] data = _bytes(array, self.nbytes, who)
        cdef Allocator owner = <Allocator>self.slab.allocator
        cdef size_t n = self.nbytes
        cdef cl_handle handle = _alive(self.slab, who)
        cdef size_t offset = self.offset_bytes
        cdef int32_t status
        cdef uint8_t* host = <uint8_t*>self.slab.host
        with nogil:
            if host == NULL:
                status = cl.enqueue_read(owner.queue, handle, 1, offset, n, &data[0], 0, NULL, NULL)
            else:
                status = cl.finish(owner.queue)
                memcpy(&data[0], host + offset, n)
        check(status, who)

    def fill(self, uint8_t byte=0):
        """Sets every byte; does not wait."""
        cdef Allocator owner = <Allocator>self.slab.allocator
        cdef cl_handle handle = _alive(self.slab, "fill")
        check(cl.enqueue_fill(owner.queue, handle, &byte, 1, self.offset_bytes, self.nbytes, 0, NULL, NULL), "fill")


cdef cl_handle _alive(Slab slab, object who) except NULL:
    if slab.handle == NULL:
        raise StateError(f"{who}: the memory was released")
    return slab.handle


def _bytes(array, size_t nbytes, who):
    if not array.flags.c_contiguous or array.nbytes != nbytes:
        raise ArgumentError(f"{who}: {array.nbytes} bytes, or not contiguous, for a tensor of {nbytes} bytes")
    return array.reshape(-1).view(np.uint8)
