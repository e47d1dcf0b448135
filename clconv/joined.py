"""The launches of a plan as one kernel with all their kernels inside (cl/joined.cl).

A driver wakes its threads for every launch, 10 to 25 us on a processor where each waits for the one before: much of
the time of a small network. In one launch they stay awake. What kernels are made of is their own source, each with its
definitions and under names of its own; arguments lie in a table, as cl_kernel objects would hold them.
"""

from __future__ import annotations

import functools
import hashlib
import math
import mmap
import re
import struct
from collections.abc import Sequence
from typing import Any

from . import program
from ._core.memory import Allocator, Tensor
from ._core.recorder import Copy, Launch
from .device import DeviceFacts

ARGUMENTS = "arguments"  # the tag of tables: host memory, like arguments of kernel objects, outside every budget
STANDARD = "CL3.0"
LINE = 16  # integers between what two processors write, as in joined.cl
CHUNKS = 4  # of a step's items for each processor: so often may another one take over
MOST_KINDS = 24  # of kernels with their definitions: each takes a compiler half a second or more
MOST_STEPS = 200  # what is kept to join more takes a megabyte of the host's; joined.cl counts to 32767
FUNCTION = re.compile(r"^static inline [\w ]*?[ *](\w+)\(", re.MULTILINE)
KERNEL = re.compile(r"^((?:__kernel|KERNEL)\b.*\bvoid )(\w+)\(", re.MULTILINE)
TYPE = re.compile(r"^(?:typedef [^;{]*\b|} )(\w+);", re.MULTILINE)
MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.MULTILINE)
# How a kernel becomes a function of its item. Compilers must not inline it: their registers would not last.
AS_FUNCTION = {
    "__kernel": "static",
    "vec_type_hint(type)": "noinline",
    "reqd_work_group_size(x, y, z)": "noinline",
    "ITEM": "const size_t id_0, const size_t id_1, const size_t id_2, const size_t size_0",
    "get_global_id(axis)": "((axis) == 0 ? id_0 : (axis) == 1 ? id_1 : id_2)",
    "get_global_size(axis)": "size_0",
}


def joinable(facts: DeviceFacts, launches: Sequence[Launch | Copy]) -> bool:
    """Whether the device can run launches as one: none is a copy, and no items work together."""
    if not facts.joins or not 2 <= len(launches) <= MOST_STEPS:
        return False
    for launch in launches:
        if isinstance(launch, Copy) or math.prod(launch.local_size or (1,)) > 1:
            return False
        if not 0 < math.prod(launch.global_size) < 2**31:
            return False
    return len(kinds_of(launches)) <= MOST_KINDS


def kinds_of(launches: Sequence[Launch | Copy]) -> list[Launch]:
    """The first launch of each kernel with its definitions, in order."""
    kinds: dict[object, Launch] = {}
    for launch in launches:
        assert isinstance(launch, Launch)
        kinds.setdefault((launch.program, launch.kernel), launch)
    return list(kinds.values())


def summary(launches: Sequence[Launch]) -> str:
    """What the source of a `JoinedLaunch` is made of, in a hundredth of its length and of the time to make it."""
    slabs = {id(arg.slab) for launch in launches for arg in launch.args if isinstance(arg, Tensor)}
    kinds = [f"{_hash(each.file)} {each.kernel} {each.defines}" for each in kinds_of(launches)]
    return "\n".join([_hash("joined.cl"), f"{len(slabs)} slabs", *kinds])


@functools.cache
def _hash(file: str) -> str:
    return hashlib.sha256(program.source(file).encode()).hexdigest()


class JoinedLaunch(Launch):
    """One launch that does what launches do one after the other, with the same bits.

    Args:
        launches: `joinable` ones. allocator: of their tensors.

    Attributes:
        text: the source.
    """

    __slots__ = ("text",)

    def __init__(self, facts: DeviceFacts, launches: Sequence[Launch], allocator: Allocator) -> None:
        kinds = kinds_of(launches)
        numbers = {(kind.program, kind.kernel): number for number, kind in enumerate(kinds)}
        slabs: dict[object, tuple[int, Tensor]] = {}
        entries = [
            _entry(launch, numbers[launch.program, launch.kernel], facts.compute_units, slabs) for launch in launches
        ]
        self.text = _text(kinds, len(slabs))
        table = _host(_table(entries), allocator)
        shared = _host([0] * LINE * (facts.compute_units + 1), allocator)
        args = [*(tensor for _, tensor in slabs.values()), table, shared, len(entries)]
        layer = [launch.label.split(":")[0] for launch in (launches[0], launches[-1])]
        label = f"{layer[0]} to {layer[1]}: joined"
        super().__init__("joined.cl", "joined", {}, (facts.compute_units,), (1,), args, label)

    @property
    def program(self) -> Any:
        """See `Launch`; with the source, and the standard that it needs."""
        return self.file, self.defines, self.text, STANDARD


def _host(words: Sequence[int], allocator: Allocator) -> Tensor:
    """Integers in memory of the host that kernels may change."""
    memory = mmap.mmap(-1, 4 * len(words))
    memory[:] = struct.pack(f"{len(words)}i", *words)
    return Tensor(allocator.wrap(memory, ARGUMENTS, "joining launches", writable=True), 0, None, len(memory))


def _table(entries: Sequence[Sequence[int]]) -> list[int]:
    places, at = [], len(entries)
    for entry in entries:
        places.append(at)
        at += len(entry)
    return [*places, *(word for entry in entries for word in entry)]


def _entry(launch: Launch, kind: int, groups: int, slabs: dict[object, tuple[int, Tensor]]) -> list[int]:
    """What joined.cl reads of a step; numbers the slabs that it meets, from 1 on."""
    along = (*launch.global_size, 1, 1)[:3]
    items = math.prod(along)
    per_chunk = -(-items // min(items, groups * CHUNKS))
    entry = [kind, *along, -(-items // per_chunk), per_chunk]
    for arg in launch.args:
        if arg is None:
            entry += [0, 0, 0]
        elif isinstance(arg, Tensor):
            slab = arg.slab
            number, _ = slabs.setdefault(id(slab), (len(slabs) + 1, Tensor(slab, 0, None, slab.nbytes)))
            entry += [number, *struct.unpack("2i", struct.pack("Q", arg.offset))]
        elif isinstance(arg, float):
            entry += struct.unpack("i", struct.pack("f", arg))
        else:
            entry.append(int(arg))
    return entry


def _text(kinds: Sequence[Launch], slabs: int) -> str:
    """The program's source."""
    names = [f"slab_{i + 1}" for i in range(slabs)]
    return "".join(
        [
            *(_function(launch, number) for number, launch in enumerate(kinds)),
            f"#define SLABS {', '.join(f'TENSOR(, {name})' for name in names)}\n",
            f"#define SLAB_LIST {', '.join(f'{name}_buffer' for name in names)}\n",
            "#define STEP_CASES " + " \\\n".join(_case(launch, number) for number, launch in enumerate(kinds)) + "\n",
            program.source("joined.cl"),
        ]
    )


def _function(launch: Launch, number: int) -> str:
    """A kernel's file, in which all names end in a number and kernels are functions; no macro outlives it."""
    text = program.source(launch.file)
    kernels = {name for _, name in KERNEL.findall(text)}
    assert launch.kernel in kernels, (launch.file, launch.kernel)
    text = KERNEL.sub(r"\1\2(ITEM, ", text)
    named = sorted(kernels.union(FUNCTION.findall(text), TYPE.findall(text)))
    macros = {**dict(launch.defines), **{name: f"{name}_{number}" for name in named}, **AS_FUNCTION}
    before = "".join(f"#define {name} {value}\n" for name, value in macros.items())
    # B is the compiler's.
    over = dict.fromkeys(n for n in [*(name.split("(")[0] for name in macros), *MACRO.findall(text)] if n != "B")
    return before + text + "".join(f"#undef {name}\n" for name in over)


def _case(launch: Launch, number: int) -> str:
    """What runs the items of a step of this kind."""
    args, at = [], 0
    for arg in launch.args:
        if arg is None or isinstance(arg, Tensor):
            args.append(f"SLAB({at}), OFFSET({at + 1})")
            at += 3
        else:
            args.append(f"REAL({at})" if isinstance(arg, float) else f"argument[{at}]")
            at += 1
    place = "item % along_0, item / along_0 % along_1, item / along_0 / along_1, along_0"
    return f"case {number}: for (; item < end; item++) {launch.kernel}_{number}({place}, {', '.join(args)}); break;"
