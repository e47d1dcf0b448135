"""Large weights stay in their files: loading neither reads nor copies them, and nobody writes into them."""

import gc
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import clconv as cc
from clconv.errors import ModelFileError
from clconv.io.model_file import read_arrays, read_model

onnx = pytest.importorskip("onnx")
helper, F = onnx.helper, onnx.TensorProto.FLOAT
UNITS, VALUES = 400, 12288  # 19 MiB
MIB = 1 << 20

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def anonymous_bytes():
    """Memory of this process that no file backs."""
    gc.collect()
    (line,) = [s for s in Path("/proc/self/smaps_rollup").read_text().splitlines() if s.startswith("Anonymous:")]
    return int(line.split()[1]) * 1024


def weights(units=UNITS):
    return np.arange(units * VALUES, dtype=np.float32).reshape(units, VALUES) % 251 / 251


def write(path, *, units=UNITS, external=False, edit=lambda data: data):
    """x (N, 3, 64, 64) -> Flatten -> Gemm; the file's other tensors are small."""
    large = onnx.numpy_helper.from_array(weights(units), "w")
    bias = onnx.numpy_helper.from_array(np.arange(units, dtype=np.float32), "b")
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", F, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("y", F, ["N", units])],
        [bias, large, onnx.numpy_helper.from_array(np.float32([3]), "unused")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.metadata_props.add(key="author", value="somebody")
    if external:
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=1024)
    else:
        path.write_bytes(edit(model.SerializeToString()))
    return path


@linux
@pytest.mark.parametrize("external", [False, True], ids=["inside", "beside"])
def test_onnx_weights_are_mapped(external, tmp_path):
    path = write(tmp_path / "m.onnx", external=external)
    cc.load(path)  # imports what reading takes
    before, start = anonymous_bytes(), time.perf_counter()
    net = cc.load(path)
    assert time.perf_counter() - start < 0.5
    assert anonymous_bytes() - before < 4 * MIB
    found = net.network.initial(0)
    assert not found["w"].flags.writeable
    np.testing.assert_array_equal(found["w"], weights())
    np.testing.assert_array_equal(found["b"], np.arange(UNITS))
    assert net.network.model.metadata == {"author": "somebody"}


def test_mapped_weights_compute_change_and_are_saved(tmp_path, device):
    units = 40  # 2 MiB
    net = cc.load(write(tmp_path / "m.onnx", units=units), device=device)
    x = np.random.default_rng(0).integers(-2, 3, (2, 3, 64, 64)).astype(np.float32)
    expected = x.reshape(2, -1).astype(np.float64) @ weights(units).astype(np.float64).T + np.arange(units)
    np.testing.assert_allclose(net.predict(x), expected, rtol=1e-4, atol=1e-2)
    copy = net.get_weights()
    copy["w"][:] = 0  # a copy: the network does not notice
    np.testing.assert_allclose(net.predict(x), expected, rtol=1e-4, atol=1e-2)
    net.set_weights(copy)
    np.testing.assert_array_equal(net.predict(x), np.broadcast_to(np.arange(units), (2, units)))
    net.save(tmp_path / "m.onnx")  # over the file that is mapped
    np.testing.assert_array_equal(cc.load(tmp_path / "m.onnx", device=device).predict(x), net.predict(x))


@linux
def test_safetensors_are_mapped(tmp_path):
    net = cc.Net(f"INPUT 64x64x3 -> FC {UNITS}", weights=None)
    net.save(tmp_path / "m.safetensors")
    read_model(tmp_path / "m.safetensors")
    before = anonymous_bytes()
    model = read_model(tmp_path / "m.safetensors")
    loose = read_arrays(tmp_path / "m.safetensors")
    assert anonymous_bytes() - before < 4 * MIB
    for name, array in net.get_weights().items():
        assert not model.arrays[name].flags.writeable
        np.testing.assert_array_equal(model.arrays[name], array)
        np.testing.assert_array_equal(loose[name], array)


DAMAGE = {
    "cut off": (lambda d: d[: len(d) // 2], "not an ONNX file, or cut off: the field at byte"),
    "cut off in a number": (lambda d: d + b"\xff", "not an ONNX file, or cut off: a number is cut off"),
    "garbage behind": (lambda d: d + b"\x93garbage", "not an ONNX file, or cut off"),
    "garbage in front": (lambda d: b"\x07" + d, "no field begins at byte 0"),
    "zeros": (lambda d: bytes(len(d)), "not an ONNX file, or cut off: no field begins"),
    "tiny fields": (lambda d: b"\x08\x07" * (len(d) // 2), "more than 262144 fields"),
    "another shape": (lambda d: d.replace(b"\x08\x90\x03\x08\x80\x60", b"\x08\x91\x03\x08\x80\x60"), "needs 19709952"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_soon(name, tmp_path):
    edit, message = DAMAGE[name]
    path = write(tmp_path / "m.onnx", edit=edit)
    start = time.process_time()
    with pytest.raises(ModelFileError, match=message) as caught:
        cc.load(path)
    assert time.process_time() - start < 1
    assert str(path) in str(caught.value)


def test_a_graph_in_two_parts_is_one(tmp_path):
    """Of two messages in a row protobuf makes one: initializers are counted on."""
    content = write(tmp_path / "m.onnx").read_bytes()
    extra = onnx.ModelProto()
    extra.graph.initializer.append(onnx.numpy_helper.from_array(weights()[:20], "more"))
    extra.graph.node.append(helper.make_node("Neg", ["more"], ["z"]))
    extra.graph.output.append(helper.make_tensor_value_info("z", F, [20, VALUES]))
    (tmp_path / "m.onnx").write_bytes(content + extra.SerializeToString())
    arrays = cc.load(tmp_path / "m.onnx").network.model.arrays
    np.testing.assert_array_equal(arrays["w"], weights())
    np.testing.assert_array_equal(arrays["more"], weights()[:20])
