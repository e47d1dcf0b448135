"""The exceptions of clconv: catch `ClconvError` for all of them.

ClconvError
├── ShapeError            (ValueError)   sizes that do not fit
├── PatternError          (ValueError)   a network pattern that does not parse; knows the position
├── ArgumentError         (ValueError)   an argument with a wrong value, type or dtype
├── DataError             (ValueError)   training or test data that is missing, damaged or out of range
├── ModelFileError        (ValueError)   a model, weight or checkpoint file that cannot be used
├── NonFiniteError        (ArithmeticError)  the loss or a weight became NaN or infinite
├── StateError            (RuntimeError) a call that the object's state does not allow (closed, forked)
├── DeviceError           (RuntimeError) no usable device, or a device that failed
│   ├── NoDeviceError     nothing works here; says why and what would help
│   ├── DeviceChoiceError the name given matches no device, or several
│   ├── DeviceLimitError  more than the device computes rightly; nothing was run
│   ├── BuildError        a kernel did not compile; carries the compiler's log
│   └── OpenCLError       an OpenCL call failed; carries the status and where it happened
└── OutOfMemoryError      (MemoryError)  the device refused an allocation
    └── BudgetError       more than the memory budget would be needed; nothing was allocated
"""

from __future__ import annotations

from collections.abc import Iterable


class ClconvError(Exception):
    """Base of every exception that clconv raises on purpose."""


class ShapeError(ClconvError, ValueError):
    """Sizes that do not fit together."""


class PatternError(ClconvError, ValueError):
    """A pattern that does not parse; `position` is the index of the offending character."""

    def __init__(self, message: str, pattern: str, position: int) -> None:
        self.pattern = pattern
        self.position = position
        start = max(0, position - 50)
        window = pattern[start : position + 30].replace("\n", " ")
        super().__init__(
            f"pattern: {message} (character {position + 1})\n    {window}\n    {' ' * (position - start)}^"
        )


class ArgumentError(ClconvError, ValueError):
    """An argument with a wrong value, type or dtype."""


class DataError(ClconvError, ValueError):
    """Data that is missing, damaged or out of range."""


class ModelFileError(ClconvError, ValueError):
    """A model, weight or checkpoint file that cannot be used."""


class NonFiniteError(ClconvError, ArithmeticError):
    """The loss, an activation or a weight became NaN or infinite."""


class StateError(ClconvError, RuntimeError):
    """A call that the object's state does not allow: closed, or forked after first use."""


class DeviceError(ClconvError, RuntimeError):
    """No usable device, or a device that failed."""


class NoDeviceError(DeviceError):
    """No working OpenCL device was found."""


class DeviceChoiceError(DeviceError):
    """The device name given matches no device, or more than one."""


class DeviceLimitError(DeviceError):
    """A kernel would exceed what the device computes rightly; nothing was run."""


class BuildError(DeviceError):
    """An OpenCL program did not compile; `log` is the compiler's output."""

    def __init__(self, message: str, log: str = "") -> None:
        self.log = log
        super().__init__(f"{message}\n{log}".rstrip())


class OpenCLError(DeviceError):
    """An OpenCL call failed. `status` is its code, `where` the kernel, layer or call."""

    def __init__(self, status: int, where: str) -> None:
        self.status = status
        self.where = where
        super().__init__(f"{where}: {status_name(status)} ({status})")


class OutOfMemoryError(ClconvError, MemoryError):
    """The device refused an allocation, or has too little memory for it."""


class BudgetError(OutOfMemoryError):
    """The memory budget does not suffice; nothing was allocated.

    Attributes:
        needed_bytes: the smallest budget that would do, where it is known.
    """

    def __init__(self, message: str, needed_bytes: int | None = None) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


def some_of(names: Iterable[str], most: int = 6) -> str:
    """The first names, for a message; "..." stands for others."""
    listed = list(names)
    return ", ".join([*listed[:most], *(["..."] if len(listed) > most else [])])


# OpenCL 1.2 specification, table of error codes; -1001 is cl_khr_icd.
_STATUS_NAMES = dict(
    enumerate(
        "SUCCESS DEVICE_NOT_FOUND DEVICE_NOT_AVAILABLE COMPILER_NOT_AVAILABLE MEM_OBJECT_ALLOCATION_FAILURE "
        "OUT_OF_RESOURCES OUT_OF_HOST_MEMORY PROFILING_INFO_NOT_AVAILABLE MEM_COPY_OVERLAP IMAGE_FORMAT_MISMATCH "
        "IMAGE_FORMAT_NOT_SUPPORTED BUILD_PROGRAM_FAILURE MAP_FAILURE MISALIGNED_SUB_BUFFER_OFFSET "
        "EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST COMPILE_PROGRAM_FAILURE LINKER_NOT_AVAILABLE LINK_PROGRAM_FAILURE "
        "DEVICE_PARTITION_FAILED KERNEL_ARG_INFO_NOT_AVAILABLE".split()
    )
)
_STATUS_NAMES.update(
    enumerate(
        "INVALID_VALUE INVALID_DEVICE_TYPE INVALID_PLATFORM INVALID_DEVICE INVALID_CONTEXT INVALID_QUEUE_PROPERTIES "
        "INVALID_COMMAND_QUEUE INVALID_HOST_PTR INVALID_MEM_OBJECT INVALID_IMAGE_FORMAT_DESCRIPTOR INVALID_IMAGE_SIZE "
        "INVALID_SAMPLER INVALID_BINARY INVALID_BUILD_OPTIONS INVALID_PROGRAM INVALID_PROGRAM_EXECUTABLE "
        "INVALID_KERNEL_NAME INVALID_KERNEL_DEFINITION INVALID_KERNEL INVALID_ARG_INDEX INVALID_ARG_VALUE "
        "INVALID_ARG_SIZE INVALID_KERNEL_ARGS INVALID_WORK_DIMENSION INVALID_WORK_GROUP_SIZE INVALID_WORK_ITEM_SIZE "
        "INVALID_GLOBAL_OFFSET INVALID_EVENT_WAIT_LIST INVALID_EVENT INVALID_OPERATION INVALID_GL_OBJECT "
        "INVALID_BUFFER_SIZE INVALID_MIP_LEVEL INVALID_GLOBAL_WORK_SIZE INVALID_PROPERTY".split(),
        start=30,
    )
)
_STATUS_NAMES[1001] = "PLATFORM_NOT_FOUND_KHR"


def status_name(status: int) -> str:
    """The symbolic name of an OpenCL status: -5 is "CL_OUT_OF_RESOURCES"."""
    return "CL_" + _STATUS_NAMES.get(-status, "UNKNOWN_ERROR")
