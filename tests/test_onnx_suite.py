"""The standard suite of the onnx package, operator by operator, on every device."""

import os
import re

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from conftest import DEVICES, takes  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from onnx.backend.test.loader import load_model_tests  # noqa: E402

import clconv.onnx_backend as backend  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of onnx, which makes its data by NumPy

OPERATORS = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv
ConvTranspose DepthToSpace Div Dropout Elu Equal Erf Exp Expand Flatten Floor Gather Gelu Gemm GlobalAveragePool
GlobalMaxPool Greater GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LRN
LayerNormalization LeakyRelu Less Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mish Mul Neg NegativeLogLikelihoodLoss PRelu Pad Pow Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
Selu Shape Sigmoid Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub
Sum Swish Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where Adagrad Adam Momentum
""".split()

# Why what is left out is left out.
EXCLUDED = {
    r"test_maxpool_with_argmax_.*": "the places of the maxima are not given",
    r"test_identity_(sequence|opt)": "sequences and optionals are no tensors",
    r"test_cast_.*(FLOAT8|FLOAT4|INT4|INT2).*": "types of 8 bits and less are not computed with on the device",
}
# From PyTorch, in opset 6.
CONVERTED = re.compile(
    r"test_(AvgPool|BatchNorm|ConstantPad|Conv|ELU|GLU|LeakyReLU|Linear|LogSoftmax|MaxPool|PReLU|PixelShuffle|PoissonNLL|"
    r"ReLU|ReflectionPad|ReplicationPad|SELU|Sigmoid|Softmax|Softmin|Softplus|Softsign|Tanh|ZeroPad|log_softmax|softmax|"
    r"operator_(basic|chunk|clip|concat2|conv|exp|flatten|max|min|mm|addmm|pad|params|permute2|pow|reduced|selu|sqrt|"
    r"view|add_size1_broadcast))"
)


def excluded(name):
    return any(re.fullmatch(pattern, name) for pattern in EXCLUDED)


@pytest.fixture(scope="module")
def node_tests():
    """The suite's tests of single nodes, by operator."""
    found = {name: [] for name in OPERATORS}
    for case in load_model_tests(kind="node"):
        (node, *others) = case.model.graph.node
        if not others and "_expanded" not in case.name and node.op_type in found and not excluded(case.name):
            found[node.op_type].append(case)
    return found


def same(got, expected, case):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, case.name
        if b.dtype.kind in "fV" or b.dtype.name == "bfloat16":
            a, b = a.astype(np.float64), b.astype(np.float64)
        np.testing.assert_allclose(a, b, rtol=case.rtol, atol=case.atol, err_msg=case.name)


@pytest.mark.shared
@pytest.mark.parametrize("operator", OPERATORS)
def test_nodes(operator, node_tests, device):
    assert node_tests[operator]
    for case in node_tests[operator]:
        rep = backend.prepare(case.model, device.key)
        for inputs, outputs in case.data_sets:
            same(rep.run([as_array(x) for x in inputs]), [as_array(y) for y in outputs], case)


def as_array(data):
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else data


def from_folder(folder, stem):
    arrays = []
    while os.path.exists(path := os.path.join(folder, f"{stem}_{len(arrays)}.pb")):
        with open(path, "rb") as file:
            arrays.append(numpy_helper.to_array(onnx.TensorProto.FromString(file.read())))
    return arrays


@pytest.mark.parametrize("kind", ["pytorch-converted", "pytorch-operator"])
def test_models_from_pytorch(kind, device, request):
    """The devices share them: the operators are tested on each, how they are put together on one."""
    cases = [case for case in load_model_tests(kind=kind) if CONVERTED.match(case.name)]
    assert len(cases) > 20
    working = request.config.stash[DEVICES]
    (info,) = (each for each in working if each.key == device.key)
    cases = [case for number, case in enumerate(cases) if takes(info, number, working)]
    for case in cases:
        rep = backend.prepare(onnx.load(os.path.join(case.model_dir, "model.onnx")), device.key)
        folder = os.path.join(case.model_dir, "test_data_set_0")
        same(rep.run(from_folder(folder, "input")), from_folder(folder, "output"), case)


def test_every_exclusion_is_needed():
    """An exclusion that excludes nothing, or a test that would pass, is no longer needed."""
    cases = [case for case in load_model_tests(kind="node") if excluded(case.name)]
    for pattern in EXCLUDED:
        assert any(re.fullmatch(pattern, case.name) for case in cases), pattern


def test_one_node():
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    (c,) = backend.run_node(node, [np.float32([1, 2]), np.float32([[3], [4]])])
    np.testing.assert_array_equal(c, [[4, 5], [5, 6]])


def test_run_model_and_named_outputs():
    node = onnx.helper.make_node("Split", ["x"], ["low", "high"], axis=0, num_outputs=2)
    info = onnx.helper.make_tensor_value_info
    outputs = [info(name, 1, [2]) for name in ("low", "high")]
    graph = onnx.helper.make_graph([node], "g", [info("x", 1, [4])], outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    result = backend.run_model(model, {"x": np.float32([1, 2, 3, 4])})
    np.testing.assert_array_equal(result.high, [3, 4])


def test_inputs_that_do_not_fit():
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [info("a", 1, ["n"]), info("b", 1, ["n"])], [info("c", 1, None)])
    rep = backend.prepare(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]))
    with pytest.raises(ValueError, match="1 inputs where the model takes 2"):
        rep.run([np.float32([1])])
    with pytest.raises(ValueError, match="'b' is missing"):
        rep.run({"a": np.float32([1])})
    with pytest.raises(ValueError, match="int32 where float32"):
        rep.run([np.float32([1]), np.int32([1])])
    np.testing.assert_array_equal(rep.run([np.float32([1, 2, 3]), np.float32([4])])[0], [5, 6, 7])


def test_numbers_beyond_float32_are_refused():
    node = onnx.helper.make_node("Neg", ["a"], ["c"])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [info("a", 11, [2])], [info("c", 11, [2])])
    rep = backend.prepare(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]))
    np.testing.assert_array_equal(rep.run([np.array([1.5, np.inf])])[0], [-1.5, -np.inf])
    with pytest.raises(ValueError, match="numbers beyond"):
        rep.run([np.array([1.5, 1e39])])


def test_devices(device):
    assert backend.supports_device("CPU") and backend.supports_device(device.key)
    assert not backend.supports_device("NPU 9000")


def test_known_weights_of_a_transposed_convolution_of_sequences(device):
    """The suite feeds all weights; those of real files are known, and of fewer axes than images have."""
    (case,) = (c for c in load_model_tests(kind="node") if c.name == "test_convtranspose_1d")
    inputs, outputs = case.data_sets[0]
    model = onnx.ModelProto.FromString(case.model.SerializeToString())  # others run the case as it is
    model.graph.initializer.append(numpy_helper.from_array(as_array(inputs[1]), model.graph.input[1].name))
    rep = backend.prepare(model, device.key)
    same(rep.run([as_array(inputs[0])]), [as_array(y) for y in outputs], case)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_nothing_joined_with_nothing(shape):
    x = np.zeros(shape, np.float32)
    (y,) = backend.run_node(onnx.helper.make_node("Concat", ["x", "x"], ["y"], axis=1), [x])
    assert y.shape == (shape[0], 6, *shape[2:])


def test_sums_of_infinite_powers(device):
    inf = np.inf
    x = np.array([[inf, 1, 2], [-inf, -inf, -inf], [inf, -inf, 0], [-inf, 1, 2], [-3e38, -3e38, -3e38]], np.float32)
    (y,) = backend.run_node(
        onnx.helper.make_node("ReduceLogSumExp", ["x"], ["y"], axes=[1]), [x], device.key, opset_version=13
    )
    np.testing.assert_allclose(y[:, 0], [inf, -inf, inf, 2 + np.log1p(np.exp(-1)), -3e38], rtol=1e-6)
