"""What layers take down: launches and copies, in order, before anything is built.

Programs are then built in parallel, and `Recorder.finish` makes a `Recording`.
"""

from clconv.errors import DeviceLimitError
from clconv.shapes import blocks

from clconv._core.executor import Recording


class Launch:
    """One kernel launch as a layer described it.

    Attributes:
        file, kernel: the source in cl/ and the kernel's name. defines: its build definitions, sorted.
        global_size, local_size: work-items; local_size None leaves it to the driver.
        args: Tensor (a buffer and a 64-bit element offset), None (an absent tensor: likewise, never
            read), int (32 bits) or float. label: "layer: kernel", for errors and profiles.
        waits: for all copies in front of it, whatever it reads.
    """

    __slots__ = ("args", "defines", "file", "global_size", "kernel", "label", "local_size", "waits")

    def __init__(self, file, kernel, defines, global_size, local_size, args, label, waits=False):
        self.file = file
        self.kernel = kernel
        self.defines = tuple(sorted((k, str(v)) for k, v in defines.items()))
        self.global_size = tuple(global_size)
        self.local_size = None if local_size is None else tuple(local_size)
        self.args = args
        self.label = label
        self.waits = waits

    @property
    def program(self):
        """What must be built for it: (file, defines)."""
        return self.file, self.defines


class HostTensor:
    """A piece of host memory with its spec, as `Tensor` has it; `content`: its bytes and what follows, or a `Lent`."""

    __slots__ = ("content", "plane", "spec")

    def __init__(self, content, spec, plane=0):
        self.content = content
        self.spec = spec
        self.plane = plane


class Copy:
    """Rows of bytes that go from the host to a tensor, or `down` from it; the host's outlive the recording.

    Attributes:
        host: the bytes from the first row on, or a `Lent`. row_bytes, rows, planes: what is copied of each row, how
            many there are in a plane, and how many planes.
        pitches, host_pitches: bytes from one row to the next and from one plane to the next, of the tensor and of the
            host; the latter 0 where there is one plane.
    """

    __slots__ = ("down", "host", "host_pitches", "label", "pitches", "planes", "row_bytes", "rows", "tensor")

    def __init__(self, host, tensor, label, *, row_bytes, down=False, rows=1, planes=1, pitches=(0, 0),
                 host_pitches=(0, 0)):
        self.host = host
        self.tensor = tensor
        self.label = label
        self.down = down
        self.row_bytes = row_bytes
        self.rows = rows
        self.planes = planes
        self.pitches = pitches
        self.host_pitches = host_pitches

    def extent(self, pitches):
        """Bytes from the first one to the last."""
        return (self.rows - 1) * pitches[0] + (self.planes - 1) * pitches[1] + self.row_bytes


def _sizes(spec, block):
    """Of a tensor: (planes, rows of each, pixels of a row, bytes of a pixel); one pixel where it is no image."""
    if len(spec.shape) != 4:
        return 1, 1, 1, spec.nbytes(block)
    n, c, h, w = spec.shape
    planes = n * (blocks(c, block) if spec.layout == "block" else c)
    return planes, h, w, spec.nbytes(block) // (planes * h * w)


class Recorder:
    """Takes down launches in order. `facts` are the device's; `label` names the layer being recorded."""

    def __init__(self, facts):
        self.facts = facts
        self.label = ""
        self.launches = []
        self._waits = False

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
            Launch(
                file, kernel, defines or {}, global_size, local_size, args, f"{self.label}: {kernel}", self._waits
            )
        )
        self._waits = False

    def copy(self, source, target):
        """Appends a copy of host memory, an array of bytes, to a tensor; kernels that read the tensor wait for it."""
        self.launches.append(Copy(source, target, f"{self.label}: upload", row_bytes=len(source)))

    def move(self, host, tensor, *, down, column=0):
        """Appends a copy between columns of a `HostTensor`, from `column` on, and a tensor, `down` from it.

        But for columns both have the same spec.
        """
        planes, rows, width, size = _sizes(tensor.spec, self.facts.block)
        wide = _sizes(host.spec, self.facts.block)[2]
        row, plane, host_plane = width * size, tensor.plane or rows * width, host.plane or rows * wide
        content = host.content[column * size :] if column else host.content
        pitches, host_pitches = (row, plane * size), (wide * size, host_plane * size)
        if width == wide:  # rows follow one another
            planes, rows, row, pitches, host_pitches = 1, planes, rows * row, (pitches[1], 0), (host_pitches[1], 0)
            if pitches == host_pitches == (row, 0):
                rows, row, pitches, host_pitches = 1, rows * row, (0, 0), (0, 0)
        self.launches.append(
            Copy(content, tensor, f"{self.label}: {'spill' if down else 'restore'}", row_bytes=row, down=down,
                 rows=rows, planes=planes, pitches=pitches, host_pitches=host_pitches)
        )

    def settle(self):
        """The next launch waits for all copies so far: it may write what they read, or read parts that they wrote."""
        self._waits = True

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
