"""Copies between the device and memory of the host: the network's own, or arrays that the caller lends for a run."""

from libc.stdint cimport int32_t, uint8_t

import numpy as np

from .memory cimport Tensor
from .opencl cimport cl, cl_handle


class Lent:
    """Bytes of an array that the caller lends for each run, by its name there: from `at` on."""

    __slots__ = ("at", "name")

    def __init__(self, name, at=0):
        self.name = name
        self.at = at

    def __getitem__(self, bytes_from):
        """What comes behind so many more bytes, as of an array of bytes: lent[n:]."""
        return Lent(self.name, self.at + bytes_from.start)


cdef int32_t enqueue_copy(cl_handle queue, CopyCall* call, cl_handle* before, cl_handle* event) noexcept nogil:
    """Enqueues a copy in the direction that it has, row by row where there are several."""
    cdef size_t* none = [0, 0, 0]
    cdef int32_t waits = before != NULL
    cdef uint8_t* host = call.host if call.lent == NULL else call.lent[0] + call.lent_at
    cdef bint several = call.region[1] > 1 or call.region[2] > 1
    if several and call.down:
        return cl.enqueue_read_rows(
            queue, call.buffer, 0, call.origin, none, call.region, call.pitches[0], call.pitches[1],
            call.host_pitches[0], call.host_pitches[1], host, waits, before, event,
        )
    if several:
        return cl.enqueue_write_rows(
            queue, call.buffer, 0, call.origin, none, call.region, call.pitches[0], call.pitches[1],
            call.host_pitches[0], call.host_pitches[1], host, waits, before, event,
        )
    if call.down:
        return cl.enqueue_read(queue, call.buffer, 0, call.origin[0], call.region[0], host, waits, before, event)
    return cl.enqueue_write(queue, call.buffer, 0, call.origin[0], call.region[0], host, waits, before, event)


cdef class Loan:
    """An array of the caller's, or the place that waits for one."""

    cdef uint8_t* start
    cdef size_t used  # bytes that copies touch, from its start on
    cdef object array


cdef class Loans:
    """The arrays that copies of a recording need before each run, by name."""

    def __init__(self):
        self.known = {}

    def __bool__(self):
        return bool(self.known)

    cdef int prepare(self, CopyCall* call, copy) except -1:
        """Makes a call of what was recorded; the host's bytes, if not lent, and the tensor must outlive it."""
        cdef const uint8_t[::1] data
        cdef Tensor tensor = copy.tensor
        cdef size_t extent = copy.extent(copy.host_pitches)
        cdef Loan loan
        assert tensor.nbytes >= copy.extent(copy.pitches), (copy.label, tensor.nbytes)
        if isinstance(copy.host, Lent):
            loan = self.known.setdefault(copy.host.name, Loan())
            loan.used = max(loan.used, <size_t>copy.host.at + extent)
            call.lent, call.lent_at = &loan.start, copy.host.at
        else:
            data = copy.host
            assert len(data) >= extent, (copy.label, len(data))
            assert not (copy.down and copy.host.flags.writeable is False), copy.label
            call.host = <uint8_t*>&data[0]
        call.down = copy.down
        call.buffer, call.origin[0] = tensor.slab.handle, tensor.offset_bytes
        call.region = [copy.row_bytes, copy.rows, copy.planes]
        call.pitches, call.host_pitches = copy.pitches, copy.host_pitches
        return 0

    def lend(self, str name, array):
        """Lets copies use a C-contiguous array until `give_back`."""
        cdef const uint8_t[::1] data = array.reshape(-1).view(np.uint8)
        cdef Loan loan = self.known[name]
        assert <size_t>len(data) >= loan.used, (name, len(data), loan.used)
        loan.start, loan.array = <uint8_t*>&data[0], array

    def give_back(self):
        """Forgets all arrays."""
        cdef Loan loan
        for loan in self.known.values():
            loan.start, loan.array = NULL, None

    cdef int check(self) except -1:
        """Whether every array is there; a copy from nowhere would end the process."""
        cdef Loan loan
        for name, loan in self.known.items():
            assert loan.start != NULL, name
        return 0
