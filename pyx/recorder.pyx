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
    """A piece of host memory with its spec, as `Tensor` has it; `content`: its bytes and those behind."""

    __slots__ = ("content", "plane", "spec")

    def __init__(self, content, spec, plane=0):
        self.content = content
        self.spec = spec
        self.plane = plane


class Copy:
    """Rows of bytes that go from the host to a tensor, or `down` from it; the host's outlive the recording.

    Attributes:
        host: the bytes from the first row on. rows, row_bytes: how many, and what is copied of each.
        pitch, host_pitch: bytes from one row to the next, of the tensor and of the host.
    """

    __slots__ = ("down", "host", "host_pitch", "label", "pitch", "row_bytes", "rows", "tensor")

    def __init__(self, host, tensor, label, *, down=False, rows=1, row_bytes=0, pitch=0, host_pitch=0):
        self.host = host
        self.tensor = tensor
        self.label = label
        self.down = down
        self.rows = rows
        self.row_bytes = row_bytes or len(host)
        self.pitch = pitch or self.row_bytes
        self.host_pitch = host_pitch or self.row_bytes


def _rows(spec, block):
    """What lies in one piece in every part of a tensor: (how many pieces, pixels, bytes of each pixel)."""
    if len(spec.shape) != 4:
        return 1, 1, spec.nbytes(block)
    n, c, h, w = spec.shape
    rows = n * (blocks(c, block) if spec.layout == "block" else c)
    return rows, h * w, spec.nbytes(block) // (rows * h * w)


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
        self.launches.append(Copy(source, target, f"{self.label}: upload"))

    def move(self, host, tensor, *, down):
        """Appends a copy between a `HostTensor` and a tensor of the same spec, `down` from it; see `settle`."""
        rows, pixels, size = _rows(tensor.spec, self.facts.block)
        row = pixels * size
        pitch, host_pitch = (tensor.plane or pixels) * size, (host.plane or pixels) * size
        if pitch == host_pitch == row:
            rows, row, pitch, host_pitch = 1, rows * row, 0, 0
        self.launches.append(
            Copy(host.content, tensor, f"{self.label}: {'spill' if down else 'restore'}", down=down, rows=rows,
                 row_bytes=row, pitch=pitch, host_pitch=host_pitch)
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
