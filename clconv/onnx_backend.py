"""The interface of `onnx.backend.base`: any ONNX model, with any number of inputs and outputs, on a device.

    import clconv.onnx_backend as backend

    rep = backend.prepare(onnx.load("model.onnx"))
    outputs = rep.run([x, y])

Tensors of floating-point numbers are computed on the device in float32. Whole numbers and truth values, which say
how tensors are shaped and where things lie, are computed on the host when a plan is made; a plan serves inputs of
the same shapes and the same whole numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from . import passes
from .device import Device, choose, devices
from .engine import Session
from .errors import ArgumentError, ClconvError, ModelFileError
from .io.onnx_convert import Built, Converter, check_operators
from .io.onnx_file import OnnxModel, onnx_package, parse_model
from .io.onnx_shape import is_float
from .io.onnx_values import FLOAT32_MAX, NeedsConstant, Shape
from .packing import Array
from .plan import make_plan
from .recent import Recent

onnx_package()
from onnx.backend.base import Backend, BackendRep, namedtupledict  # noqa: E402

MAX_PLANS = 4  # prepared plans of a model, each with its weights on the device


class _Prepared:
    """A plan with the memory that it runs in."""

    def __init__(self, built: Built, device: Device, arrays: Mapping[str, Array]) -> None:
        self.built = built
        self.session: Session | None = None
        if built.labels:
            passes.for_inference(built.graph, device.facts.block)
            self.plan = make_plan(built.graph, device.facts)
            self.session = Session(device)
            self.session.load(built.graph.persistent, arrays)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs by name."""
        if self.session is None:
            return self.built.arrays({})
        graph = self.plan.graph
        given = {
            name: np.asarray(feeds[name], np.float32).reshape(value.spec.shape) for name, value in graph.inputs.items()
        }
        return self.built.arrays(self.session.run(self.plan, given))

    def release(self) -> None:
        """Frees the device memory."""
        if self.session is not None:
            self.session.release()


class ClconvBackendRep(BackendRep):
    """A model that is ready to run on a device."""

    def __init__(self, model: OnnxModel, device: Device) -> None:
        self.model = model
        self.device = device
        self.converter = Converter(model)
        self._known: set[str] = set()  # inputs that some operator must know beforehand
        self._plans: Recent[Any, _Prepared] = Recent(MAX_PLANS, _Prepared.release)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Array, ...]:
        """The outputs, in the model's order, as a named tuple.

        Args:
            inputs: arrays in the model's order, by name, or a lone array.

        Raises:
            ArgumentError: inputs that the model does not take.
            ModelFileError: something in the model is not supported for these inputs.
        """
        feeds = self._feeds(inputs)
        outputs = self._prepared(feeds).run(feeds)
        names = [port.name for port in self.model.outputs]
        result: tuple[Array, ...] = namedtupledict("Outputs", names)(*(outputs[name] for name in names))
        return result

    def _feeds(self, inputs: Any) -> dict[str, Array]:
        ports = self.model.inputs
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        else:
            listed = list(inputs) if isinstance(inputs, Sequence) else [inputs]
            if len(listed) != len(ports):
                raise ArgumentError(f"onnx: {len(listed)} inputs where the model takes {len(ports)}")
            given = dict(zip((port.name for port in ports), listed, strict=True))
        feeds = {}
        for port in ports:
            if port.name not in given:
                raise ArgumentError(f"onnx: input {port.name!r} is missing")
            array = np.asarray(given[port.name])
            if array.dtype != port.dtype:
                raise ArgumentError(f"onnx: input {port.name!r} is {array.dtype} where {port.dtype} is expected")
            _check_range(port.name, array)
            feeds[port.name] = array
        return feeds

    def _prepared(self, feeds: Mapping[str, Array]) -> _Prepared:
        while True:
            inputs = {name: self._described(name, array) for name, array in feeds.items()}
            key = tuple((name, _key(item)) for name, item in inputs.items())
            try:
                return self._plans.get(key, partial(self._prepare, inputs))
            except NeedsConstant as error:
                if error.roots <= self._known:
                    raise ModelFileError(f"{self.model.where}: not supported: {error}") from error
                self._known |= error.roots

    def _prepare(self, inputs: Mapping[str, Shape | Array]) -> _Prepared:
        return _Prepared(self.converter.build(inputs), self.device, self.converter.arrays)

    def _described(self, name: str, array: Array) -> Shape | Array:
        """The shape of what the device computes with, or an array that has to be known beforehand."""
        if name in self._known or array.size == 0 or not is_float(array.dtype):
            return array
        return array.shape

    def __del__(self) -> None:
        if hasattr(self, "_plans"):
            self._plans.clear()


def _check_range(name: str, array: Array) -> None:
    """Refuses float64 numbers that float32, in which the device computes, cannot hold."""
    if array.dtype == np.float64 and array.size and np.abs(array[np.isfinite(array)]).max(initial=0) > FLOAT32_MAX:
        raise ArgumentError(f"onnx: input {name!r} has numbers beyond {FLOAT32_MAX:.3g}: not supported in float32")


def _key(item: Shape | Array) -> Any:
    if isinstance(item, tuple):
        return item
    return item.shape, item.dtype.str, hashlib.sha256(np.ascontiguousarray(item).tobytes()).digest()


class ClconvBackend(Backend):
    """`onnx.backend.base.Backend` over OpenCL devices."""

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> ClconvBackendRep:
        """A model, ready to run.

        Args:
            model: ModelProto. device: "CPU" or "CUDA" (any GPU), or a device as `clconv devices` lists it.

        Raises:
            ModelFileError: the model is damaged, or has operators that are not supported: names them all.
        """
        return ClconvBackendRep(parse_model(model, "model"), _device(device))

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Array, ...]:
        """Prepares and runs a model once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: Any, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Array, ...]:
        """Runs one node.

        Args:
            node: NodeProto. inputs: arrays in the order of its non-empty inputs, or by name.
            outputs_info: not needed. kwargs: opset_version, default the newest that the onnx package knows.
        """
        onnx = onnx_package()
        names = [name for name in dict.fromkeys(node.input) if name]
        feeds = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=True))
        helper = onnx.helper
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype), np.shape(a))
            for name, a in feeds.items()
        ]
        unknown = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output if name]
        graph = helper.make_graph([node], "node", infos, unknown)
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, version)])
        return cls.run_model(model, feeds, device)

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether there is a converter for all of its operators, and the device."""
        try:
            check_operators(parse_model(model, "model"))
        except ClconvError:
            return False
        return cls.supports_device(device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether there is a working device of this name."""
        try:
            _device(device)
        except ClconvError:
            return False
        return True


def _device(name: str) -> Device:
    """ "CPU" and "CUDA" as ONNX names them; whatever CLCONV_DEVICE says stands for "CPU"."""
    return choose(None) if name == "CPU" else choose(_gpu() if name == "CUDA" else name)


def _gpu() -> str:
    for found in devices():
        if found.facts.kind == "gpu" and found.works:
            return found.key
    raise ArgumentError("onnx: no working GPU; run `clconv devices`")


prepare = ClconvBackend.prepare
run_model = ClconvBackend.run_model
run_node = ClconvBackend.run_node
supports_device = ClconvBackend.supports_device
is_compatible = ClconvBackend.is_compatible
