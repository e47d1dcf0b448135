"""Recording launches and replaying them.

A layer records into a `Recorder`, which only notes what is to be launched: programs are then built in
parallel, and `Recorder.finish` makes one cl_kernel per launch, sets its arguments once and returns a
`Recording`. Replaying is a loop of enqueues on an in-order queue, without the GIL.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from clconv.errors import DeviceLimitError, StateError

from . cimport opencl
from .memory cimport Tensor
from .opencl cimport check, cl, cl_handle

cdef uint32_t PROFILING_START = 0x1282
cdef uint32_t PROFILING_END = 0x1283


class Launch:
    """One kernel launch as a layer described it.

    Attributes:
        file, kernel: the source in cl/ and the kernel's name. defines: its build definitions, sorted.
        global_size, local_size: work-items; local_size None leaves it to the driver.
        args: Tensor (a buffer and a 64-bit element offset), None (an absent tensor: likewise, never
            read), int (32 bits) or float. label: "layer: kernel", for errors and profiles.
    """

    __slots__ = ("args", "defines", "file", "global_size", "kernel", "label", "local_size")

    def __init__(self, file, kernel, defines, global_size, local_size, args, label):
        self.file = file
        self.kernel = kernel
        self.defines = tuple(sorted((k, str(v)) for k, v in defines.items()))
        self.global_size = tuple(global_size)
        self.local_size = None if local_size is None else tuple(local_size)
        self.args = args
        self.label = label

    @property
    def program(self):
        """What must be built for it: (file, defines)."""
        return self.file, self.defines


class Recorder:
    """Takes down launches in order. `facts` are the device's; `label` names the layer being recorded."""

    def __init__(self, facts):
        self.facts = facts
        self.label = ""
        self.launches = []

    def launch(self, file, kernel, global_size, args, *, defines=None, local_size=None, iterations=0):
        """Appends a launch; see `Launch`.

        Args:
            iterations: at most so many loop iterations does a work-item run (layer.pyx: `looped`); 0: a few,
                whatever the shapes.

        Raises:
            DeviceLimitError: more than the device computes rightly.
        """
        limit = self.facts.loop_limit
        if limit and iterations > limit:
            raise DeviceLimitError(
                f"{self.label}: {kernel}: a work-item would run up to {iterations} loop iterations, but "
                f"{self.facts.name} stops after about {limit} without an error; use another device"
            )
        self.launches.append(
            Launch(file, kernel, defines or {}, global_size, local_size, args, f"{self.label}: {kernel}")
        )

    def programs(self):
        """What must be built, each once, in order of first use."""
        return list(dict.fromkeys(launch.program for launch in self.launches))

    def finish(self, device, programs) -> Recording:
        """The recording of all launches; `programs` maps what `programs()` lists to built programs."""
        recording = Recording(device)
        for launch in self.launches:
            recording.append(launch, programs[launch.program])
        return recording


cdef struct Step:
    cl_handle kernel
    uint32_t dims
    bint has_local
    size_t global_size[3]
    size_t local_size[3]


cdef class Recording:
    """Launches with their arguments set, ready to be replayed any number of times."""

    cdef Step* steps
    cdef size_t count
    cdef size_t capacity
    cdef cl_handle queue
    cdef readonly list labels
    cdef list keep  # what the kernels use must outlive them: tensors, programs, the device

    def __cinit__(self):
        self.steps = NULL
        self.count = self.capacity = 0

    def __init__(self, device):
        opencl.load()
        self.queue = <cl_handle><size_t>device.queue.int_ptr
        self.labels = []
        self.keep = [device]

    def __len__(self):
        return self.count

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            cl.release_kernel(self.steps[i].kernel)
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
        return &self.steps[self.count]

    def append(self, launch, program):
        """Makes the launch's kernel and sets its arguments."""
        cdef Step* step = self._next()
        cdef int32_t status = 0
        cdef bytes name = launch.kernel.encode()
        cdef uint32_t i
        step.kernel = cl.create_kernel(<cl_handle><size_t>program.int_ptr, name, &status)
        check(status, f"{launch.label}: creating the kernel")
        self.count += 1
        self.labels.append(launch.label)
        self.keep.append(program)
        step.dims = len(launch.global_size)
        step.has_local = launch.local_size is not None
        for i in range(step.dims):
            step.global_size[i] = launch.global_size[i]
            if step.has_local:
                step.local_size[i] = launch.local_size[i]
                if step.global_size[i] % step.local_size[i]:
                    step.global_size[i] += step.local_size[i] - step.global_size[i] % step.local_size[i]
        self._set_args(step.kernel, launch)

    cdef int _set_args(self, cl_handle kernel, object launch) except -1:
        cdef uint32_t index = 0
        cdef int32_t whole
        cdef float real
        cdef uint64_t offset
        cdef cl_handle handle
        for arg in launch.args:
            if arg is None or isinstance(arg, Tensor):
                handle, offset = NULL, 0
                if arg is not None:
                    handle, offset = (<Tensor>arg).slab.handle, arg.offset
                    self.keep.append(arg)
                    if handle == NULL:
                        raise StateError(f"{launch.label}: the memory was released")
                check(cl.set_kernel_arg(kernel, index, sizeof(cl_handle), &handle), f"{launch.label}: argument {index}")
                index += 1
                check(cl.set_kernel_arg(kernel, index, 8, &offset), f"{launch.label}: argument {index}")
            elif isinstance(arg, float):
                real = arg
                check(cl.set_kernel_arg(kernel, index, 4, &real), f"{launch.label}: argument {index}")
            else:
                whole = arg
                check(cl.set_kernel_arg(kernel, index, 4, &whole), f"{launch.label}: argument {index}")
            index += 1
        return 0

    def run(self):
        """Enqueues every launch and flushes; does not wait.

        Raises:
            OpenCLError, OutOfMemoryError: a launch was refused; the message names its layer and kernel.
        """
        cdef size_t i = 0
        cdef int32_t status = 0
        cdef Step* step
        with nogil:
            while i < self.count:
                step = &self.steps[i]
                status = cl.enqueue_kernel(
                    self.queue, step.kernel, step.dims, NULL, step.global_size,
                    step.local_size if step.has_local else NULL, 0, NULL, NULL,
                )
                if status != 0:
                    break
                i += 1
            if status == 0:
                status = cl.flush(self.queue)
        if status != 0:
            check(status, self.labels[i] if i < self.count else "flush")

    def run_stepwise(self, progress):
        """Runs every launch and waits for it before the next; calls progress(done, total) after each."""
        cdef size_t i
        cdef int32_t status
        for i in range(self.count):
            with nogil:
                status = cl.enqueue_kernel(
                    self.queue, self.steps[i].kernel, self.steps[i].dims, NULL, self.steps[i].global_size,
                    self.steps[i].local_size if self.steps[i].has_local else NULL, 0, NULL, NULL,
                )
                if status == 0:
                    status = cl.finish(self.queue)
            check(status, self.labels[i])
            progress(i + 1, self.count)

    def wait(self):
        """Waits until everything enqueued so far has run."""
        cdef int32_t status
        with nogil:
            status = cl.finish(self.queue)
        check(status, "waiting for the device")

    def profile(self, queue):
        """Runs once on a queue with profiling enabled, as `run` does: [(label, start, end)], seconds from the first."""
        cdef cl_handle handle = <cl_handle><size_t>queue.int_ptr
        cdef cl_handle* events = <cl_handle*>calloc(self.count + 1, sizeof(cl_handle))
        cdef size_t i
        cdef uint64_t start = 0, end = 0, first = 0
        if events == NULL:
            raise MemoryError("recording: no host memory for events")
        times = []
        try:
            for i in range(self.count):
                check(
                    cl.enqueue_kernel(
                        handle, self.steps[i].kernel, self.steps[i].dims, NULL, self.steps[i].global_size,
                        self.steps[i].local_size if self.steps[i].has_local else NULL, 0, NULL, &events[i],
                    ),
                    self.labels[i],
                )
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
