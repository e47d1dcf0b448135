"""What layers take down: launches and copies, in order, before anything is built.

Programs are then built in parallel, and `Recorder.finish` makes a `Recording`.
"""

from clconv.errors import DeviceLimitError

from clconv._core.executor import Recording


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


class Copy:
    """Bytes of the host that are copied to a tensor. `source` must stay as it is while the recording lives."""

    __slots__ = ("label", "source", "target")

    def __init__(self, source, target, label):
        self.source = source
        self.target = target
        self.label = label


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

    def copy(self, source, target):
        """Appends a copy of host memory, an array of bytes, to a tensor; kernels that read the tensor wait for it."""
        self.launches.append(Copy(source, target, f"{self.label}: upload"))

    def programs(self):
        """What must be built, each once, in order of first use."""
        return list(dict.fromkeys(launch.program for launch in self.launches if isinstance(launch, Launch)))

    def finish(self, device, programs) -> Recording:
        """The recording of all launches; `programs` maps what `programs()` lists to built programs."""
        recording = Recording(device)
        for launch in self.launches:
            if isinstance(launch, Copy):
                recording.append_copy(launch)
            else:
                recording.append(launch, programs[launch.program])
        return recording
