"""The table of the CS231n notes, and plans as tables."""

import json

import numpy as np
import pytest

from clconv import passes, report, tables
from clconv.device import DeviceFacts
from clconv.errors import ArgumentError
from clconv.net import Net
from clconv.nn import zoo
from clconv.nn.network import Network
from clconv.nn.pattern import parse
from clconv.plan import make_plan
from clconv.planner import format_bytes
from clconv.train.optimizers import SGD
from clconv.train.step import training_graph

SMALL = "INPUT 12x12x3 -> CONV 3x3x8 -> BN -> RELU -> POOL -> DROPOUT 0.5 -> [FC 16 -> RELU] -> FC 4"
FACTS = DeviceFacts(
    name="nobody's",
    vendor="",
    platform_name="",
    platform_version="",
    driver_version="",
    kind="cpu",
    integrated=True,
    compute_units=4,
    lanes=16,
    block=16,
    accumulators=28,
    keeps_programs=False,
    rank=0,
    simulator=False,
    work_group=64,
    kernels="cpu",
    workers=0,
    build_threads=1,
    loop_limit=0,
    prefetches=False,
    maps_files=True,
    joins=False,
    watches=False,
    max_alloc_bytes=2**31,
    global_bytes=2**35,
    local_bytes=2**15,
    has_local=False,
    shares_memory=False,
    max_work_group=1024,
    base_align_bytes=128,
    extensions=frozenset(),
)


def plans(network: Network, batch: int = 1):
    graph = network.graph(batch, train=False)
    passes.for_inference(graph, FACTS.block)
    training = training_graph(network, batch, "softmax", SGD(0.1, momentum=0.9))
    return [make_plan(graph, FACTS), make_plan(training, FACTS)]


@pytest.fixture(scope="module")
def vgg():
    return report.describe(zoo.vgg16(), plans(zoo.vgg16()))


def test_vgg16_as_the_notes_count_it(vgg):
    assert vgg.activation_values == 15_237_608  # 60.95 MB
    assert vgg.parameters == 138_357_544
    assert vgg.macs == 15_470_264_320
    text = str(vgg)
    assert "activations 15,237,608 values = 60.95 MB, parameters 138,357,544 = 553.43 MB" in text
    rows = {row.name: row for row in vgg.rows}
    assert rows["conv1"].values == 3_211_264 and rows["conv1"].parameters == 1_792
    assert rows["relu1"].values == 0 and rows["relu1"].algorithm == "in conv1" and rows["relu1"].live_bytes is None
    assert rows["fc1"].parameters == 102_764_544 and rows["fc1"].macs == 25_088 * 4096
    assert rows["conv2"].live_bytes == 2 * 64 * 224 * 224 * 4


# One volume per convolution with what is fused to it, pooling, normalisation, sum, and the image, in MiB.
FIGURES = {
    "zfnet": (zoo.zfnet, 8.94),
    "vgg19": (zoo.vgg19, 63.1),
    "squeezenet": (zoo.squeezenet, 11.7),
    "resnet18": (zoo.resnet18, 13.7),
    "resnet50": (zoo.resnet50, 64.8),
    "mobilenetv2": (zoo.mobilenetv2, 26.9),
    "unet": (lambda: zoo.unet(base=64, batch_norm=False), 643),
}


@pytest.mark.parametrize("name", FIGURES)
def test_activations_of_well_known_networks(name):
    make, mib = FIGURES[name]
    made = report.describe(make(), [_test_plan(make())])
    assert 4 * made.activation_values / 2**20 == pytest.approx(mib, rel=5e-3)


def test_totals_are_those_of_the_plans(vgg):
    test, train = plans(zoo.vgg16())
    assert [t.mode for t in vgg.totals] == ["test", "train"]
    assert vgg.totals[0].peak_bytes == test.peak_bytes
    assert vgg.totals[1].peak_bytes == train.peak_bytes
    assert vgg.totals[1].optimizer_bytes == vgg.totals[1].weight_bytes  # one momentum for each weight
    assert max(row.live_bytes or 0 for row in vgg.rows) == test.arena_bytes


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenetv2", "squeezenet"])
def test_tables_fit_the_page(name):
    network = getattr(zoo, name)()
    made = plans(network, 2)
    lines = str(report.describe(network, made)).splitlines()
    assert max(map(len, lines)) <= tables.WIDTH
    assert max(len(line) for plan in made for line in report.plan_table(plan).splitlines()) <= tables.WIDTH


def test_layers_without_a_step_say_where_they_went():
    network = parse(SMALL)
    rows = {row.name: row for row in report.describe(network, plans(network)).rows}
    assert rows["bn1"].algorithm == rows["relu1"].algorithm == "in conv1"
    assert rows["dropout1"].algorithm == "nothing"
    training = {row.name: row for row in report.describe(network, plans(network)[1:]).rows}
    assert training["dropout1"].algorithm not in ("nothing", "")
    assert training["bn1"].live_bytes is not None


def test_transposed_and_local_products():
    network = parse("INPUT 5x4x3 -> LOCAL 3x3x2 p0 -> FC 7")
    rows = report.describe(network, plans(network, 3)).rows
    assert [row.macs for row in rows] == [0, 3 * 2 * 3 * 9 * 2 * 3, 3 * 7 * 12]
    unet = zoo.unet(2, size=32, base=4)
    up = next(row for row in report.describe(unet, [_test_plan(unet)]).rows if row.name == "up1")
    assert up.macs == 8 * 16 * 16 * 4 * 4  # each of 8 x 16 x 16 inputs reaches 4 channels of 2 x 2


def _test_plan(network):
    graph = network.graph(1, train=False)
    passes.for_inference(graph, FACTS.block)
    return make_plan(graph, FACTS)


def test_plan_table_has_a_line_per_step():
    plan = plans(parse(SMALL))[1]
    lines = report.plan_table(plan).splitlines()
    assert len(lines) == len(plan.graph.nodes) + 4
    assert lines[-1].endswith(f"peak {plan.peak_bytes} bytes ({format_bytes(plan.peak_bytes)})")


def test_a_report_is_json(vgg):
    read = json.loads(json.dumps(vgg.to_dict()))
    assert read["parameters"] == 138_357_544 and read["rows"][1]["name"] == "conv1"
    assert read["totals"][0]["peak_bytes"] == vgg.totals[0].peak_bytes


def test_summary_of_a_network_that_ran(device, capsys):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 3, 12, 12)).astype(np.float32)
    with Net(SMALL, device=device) as net:
        assert "ran so far" not in net.summary()
        net.fit(x, rng.integers(0, 4, 8), batch_size=4, verbose=False)
        net.predict(x[:3])
        text = net.summary(batch=3)
        assert capsys.readouterr().out.endswith(text + "\n")
        test, train = net.usages
        assert (test.mode, test.batch, train.mode, train.batch) == ("test", 3, "train", 4)
        for usage in (test, train):
            assert usage.planned_bytes == usage.measured_bytes
            assert str(usage.measured_bytes) in text
        assert test.planned_bytes == net.plan(3).peak_bytes
        assert train.planned_bytes == net.plan(4, "train").peak_bytes


def test_modes(device):
    net = Net(SMALL, device=device)
    assert [t.mode for t in report.report(net, mode="train").totals] == ["train"]
    assert [t.mode for t in report.report(net, mode="test").totals] == ["test"]
    with pytest.raises(ArgumentError, match=r"^summary: mode 'fast' is not one of test, train, both$"):
        net.summary(mode="fast")


def test_training_that_one_image_cannot_do_is_noted(device):
    net = Net("INPUT 4x4x2 -> FC 3 -> BN -> FC 2", device=device)
    assert "training mode: layer bn1: bn: training normalises over 1 value" in net.summary(1)
    assert "training mode:" not in net.summary(2)
