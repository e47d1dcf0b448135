"""Replaying what was recorded.

A replay is a loop of enqueues on an in-order queue, and on a second one for copies, without the GIL.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from . cimport opencl
from .copies cimport CopyCall, Loans, enqueue_copy
from .kernels cimport Call, Kernels, drop, set_args
from .memory cimport Tensor
from .opencl cimport check, cl, cl_handle

cdef uint32_t EXECUTION_STATUS = 0x11D3
cdef uint32_t PROFILING_START = 0x1282
cdef uint32_t PROFILING_END = 0x1283
cdef int LOOKS = 2000  # a millisecond or so

cdef extern from *:
    """
    static void clconv_dwell(void) { for (volatile int i = 0; i < 300; i++); }
    """
    void dwell "clconv_dwell" () noexcept nogil  # half a microsecond or so


cdef struct Step:
    Call call  # without a kernel: a copy
    CopyCall copy
    Py_ssize_t after  # the step on the other queue that must have run before, or -1
    bint signals  # whether a step on the other queue waits for this one
    cl_handle event
    uint32_t dims
    bint has_local
    size_t global_size[3]
    size_t local_size[3]


cdef void watch(cl_handle event) noexcept nogil:
    """Looks at an event until it has happened or failed, or for a while; each look takes the lock of its end."""
    cdef int32_t status = 1
    cdef int _
    for _ in range(LOOKS):
        if cl.event_info(event, EXECUTION_STATUS, 4, &status, NULL) != 0 or status <= 0:
            return
        dwell()


cdef bint overlaps(Tensor one, Tensor other):
    """Whether two tensors have bytes in common."""
    return (
        one.slab is other.slab
        and one.offset_bytes < other.offset_bytes + other.nbytes
        and other.offset_bytes < one.offset_bytes + one.nbytes
    )


cdef int32_t drain(cl_handle queue) noexcept nogil:
    """Waits until all has run that a queue was given; Mesa 22's finish waits only for what was not flushed before."""
    cdef cl_handle event = NULL
    cdef int32_t status = cl.enqueue_marker(queue, 0, NULL, &event)
    if status != 0:
        return status
    status = cl.flush(queue)
    if status == 0:
        status = cl.wait_for_events(1, &event)
    cl.release_event(event)
    return status


cdef class Recording:
    """Launches with their arguments set, ready to be replayed any number of times.

    Copies run on a queue of their own, beside the kernels before them: each waits for the kernel in front of it, which
    is the last that may use what lies where it copies to, or makes what it copies; kernels that use what was copied
    wait for it, and launches that `waits` for all copies so far. Where copies use arrays of the caller's, these are
    lent before each run and given back behind it.
    """

    cdef Step* steps
    cdef size_t count
    cdef size_t capacity
    cdef cl_handle queue
    cdef cl_handle copy_queue  # NULL: there are no copies
    cdef list coming  # (step, tensor) of copies from the host that no launch has waited for yet
    cdef Py_ssize_t last_copy  # its step, or -1
    cdef readonly Loans loans
    cdef readonly list labels
    cdef Kernels kernels
    cdef list keep  # what else the launches use must outlive them: tensors, host memory, the device

    def __cinit__(self):
        self.steps = NULL
        self.count = self.capacity = 0
        self.last_copy = -1

    def __init__(self, device):
        opencl.load()
        self.queue = <cl_handle><size_t>device.queue.int_ptr
        self.copy_queue = NULL
        self.kernels = Kernels()
        self.coming = []
        self.loans = Loans()
        self.labels = []
        self.keep = [device]

    def __len__(self):
        return self.count

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            drop(&self.steps[i].call)
        free(self.steps)

    cdef Step* _next(self) except NULL:
        cdef Step* grown
        if self.count == self.capacity:
            grown = <Step*>realloc(self.steps, (2 * self.capacity + 16) * sizeof(Step))
            if grown == NULL:
                raise MemoryError("recording: no host memory for another launch")
            self.steps = grown
            self.capacity = 2 * self.capacity + 16
        memset(&self.steps[self.count], 0, sizeof(Step))
        self.steps[self.count].after = -1
        return &self.steps[self.count]

    def append_copy(self, copy):
        """Appends a copy from the host or to it."""
        cdef Step* step = self._next()
        cdef Py_ssize_t before = self.count
        self.loans.prepare(&step.copy, copy)
        self.copy_queue = <cl_handle><size_t>self.keep[0].copy_queue.int_ptr
        step.signals = True
        while before > 0 and self.steps[before - 1].call.kernel == NULL:
            before -= 1
        if before > 0:
            step.after = before - 1
            self.steps[before - 1].signals = True
        if not copy.down:
            self.coming.append((self.count, copy.tensor))
        self.last_copy = self.count
        self.keep += [copy.host, copy.tensor]
        self.labels.append(copy.label)
        self.count += 1

    def append(self, launch, program):
        """Appends a launch of a built program's kernel."""
        cdef Step* step = self._next()
        cdef uint32_t i
        self.count += 1
        self.labels.append(launch.label)
        self.kernels.prepare(&step.call, launch, program)
        step.dims = len(launch.global_size)
        step.has_local = launch.local_size is not None
        for i in range(step.dims):
            step.global_size[i] = launch.global_size[i]
            if step.has_local:
                step.local_size[i] = launch.local_size[i]
                if step.global_size[i] % step.local_size[i]:
                    step.global_size[i] += step.local_size[i] - step.global_size[i] % step.local_size[i]
        if launch.waits:
            step.after = self.last_copy
        for arg in launch.args if self.coming else ():
            if isinstance(arg, Tensor):
                for number, tensor in self.coming:
                    if overlaps(arg, tensor):
                        step.after = max(step.after, <Py_ssize_t>number)
        # Both queues are in order: later launches run behind these copies, too.
        self.coming = [each for each in self.coming if each[0] > step.after]

    cdef int32_t _enqueue(self, size_t i, cl_handle queue, cl_handle* event) noexcept nogil:
        """Enqueues a step, after the one that it waits for if that has an event."""
        cdef Step* step = &self.steps[i]
        cdef cl_handle* before = NULL
        cdef int32_t status = 0
        cdef uint32_t at
        if step.after >= 0 and self.steps[step.after].event != NULL:
            before = &self.steps[step.after].event
        if step.call.kernel == NULL:
            return enqueue_copy(queue, &step.copy, before, event)
        if step.call.args != NULL:
            status = set_args(&step.call, &at)
            if status != 0:
                return status
        return cl.enqueue_kernel(
            queue, step.call.kernel, step.dims, NULL, step.global_size, step.local_size if step.has_local else NULL,
            before != NULL, before, event,
        )

    cdef int32_t _overlapped(self, size_t* at) noexcept nogil:
        """Enqueues all steps, copies on their own queue; `at`: the step that failed."""
        cdef int32_t status = drain(self.queue)  # what the last run computed may lie where the first copy goes
        cdef size_t i = 0
        while status == 0 and i < self.count:
            at[0] = i
            status = self._enqueue(
                i, self.copy_queue if self.steps[i].call.kernel == NULL else self.queue,
                &self.steps[i].event if self.steps[i].signals else NULL,
            )
            # Queues may wait for one another only once both are flushed.
            if status == 0 and self.steps[i].signals:
                status = cl.flush(self.copy_queue if self.steps[i].call.kernel == NULL else self.queue)
            i += 1
        if status == 0:
            status = cl.flush(self.queue)
        for i in range(self.count):
            if self.steps[i].event != NULL:
                cl.release_event(self.steps[i].event)
                self.steps[i].event = NULL
        return status

    def run(self, bint short=False):
        """Enqueues every launch and flushes; does not wait.

        Args:
            short: looks a while whether all have run: to be woken when they have takes longer than they do.

        Raises:
            OpenCLError, OutOfMemoryError: a launch was refused; the message names its layer and kernel.
        """
        cdef size_t i = 0
        cdef int32_t status = 0
        cdef cl_handle last = NULL
        self.loans.check()
        with nogil:
            if self.copy_queue != NULL:
                status = self._overlapped(&i)
            else:
                while i < self.count:
                    status = self._enqueue(i, self.queue, &last if short and i == self.count - 1 else NULL)
                    if status != 0:
                        break
                    i += 1
                if status == 0:
                    status = cl.flush(self.queue)
                if last != NULL:
                    watch(last)
                    cl.release_event(last)
        if status != 0:
            check(status, self.labels[i] if i < self.count else "flush")

    def run_stepwise(self, progress):
        """Runs every launch and waits for it before the next; calls progress(done, total) after each."""
        cdef size_t i
        cdef int32_t status
        self.loans.check()
        for i in range(self.count):
            with nogil:
                status = self._enqueue(i, self.queue, NULL)
                if status == 0:
                    status = cl.finish(self.queue)
            check(status, self.labels[i])
            progress(i + 1, self.count)

    def wait(self):
        """Waits until everything enqueued so far has run."""
        cdef int32_t status
        with nogil:
            status = drain(self.queue)
            if status == 0 and self.copy_queue != NULL:
                status = drain(self.copy_queue)
        check(status, "waiting for the device")

    def give_back(self):
        """Forgets the arrays that were lent, once nothing uses them any more."""
        if self.loans:
            self.wait()
            self.loans.give_back()

    def profile(self, queue):
        """Runs once on a queue with profiling enabled, as `run` does: [(label, start, end)], seconds from the first."""
        cdef cl_handle handle = <cl_handle><size_t>queue.int_ptr
        cdef cl_handle* events = <cl_handle*>calloc(self.count + 1, sizeof(cl_handle))
        cdef size_t i
        cdef uint64_t start = 0, end = 0, first = 0
        if events == NULL:
            raise MemoryError("recording: no host memory for events")
        self.loans.check()
        times = []
        try:
            for i in range(self.count):
                check(self._enqueue(i, handle, &events[i]), self.labels[i])
            check(cl.finish(handle), "waiting for the device")
            for i in range(self.count):
                check(cl.event_profile(events[i], PROFILING_START, 8, &start, NULL), self.labels[i])
                check(cl.event_profile(events[i], PROFILING_END, 8, &end, NULL), self.labels[i])
                first = first or start
                times.append((self.labels[i], (start - first) * 1e-9, (end - first) * 1e-9))
        finally:
            for i in range(self.count):
                if events[i] != NULL:
                    cl.release_event(events[i])
            free(events)
        return times
