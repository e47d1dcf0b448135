"""Pictures of filters and of training runs."""

import sys

import numpy as np
import pytest
from PIL import Image

from clconv import plots
from clconv.errors import ArgumentError
from clconv.net import Net
from clconv.nn import FC, Conv, ConvTranspose
from clconv.train.history import History


def test_colour_filters_are_images_in_a_grid(tmp_path):
    net = Net("INPUT 8x8x3 -> CONV 3x3x10 -> RELU -> FC 2")
    weight = np.zeros((10, 3, 3, 3), np.float32)
    weight[0, 0], weight[1, 2, 1, 1], weight[2] = 0.25, -1, 5
    net.set_weights({"conv1.weight": weight})
    net.plot_filters("conv1", tmp_path / "f.png")
    image = Image.open(tmp_path / "f.png")
    scale = 16  # three pixels on at least 48
    assert image.mode == "RGB" and image.size == ((4 * 4 + 1) * scale, (3 * 4 + 1) * scale)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((scale, scale)) == (255, 128, 128)  # red only, and grey is 0
    assert image.getpixel((4 * scale + 2 * scale, 2 * scale)) == (128, 128, 0)
    assert image.getpixel((9 * scale, scale)) == (255, 255, 255)


def test_other_filters_are_rows_of_grey_maps(tmp_path):
    net = Net([ConvTranspose(5, 2, stride=2), Conv(70, 1)], input_shape=(6, 4, 4))
    net.plot_filters("convtranspose1", tmp_path / "f.png")
    image = Image.open(tmp_path / "f.png")
    scale = 24
    assert image.mode == "L" and image.size == ((6 * 3 + 1) * scale, (5 * 3 + 1) * scale)
    net.plot_filters("conv1", tmp_path / "g.png")
    assert max(Image.open(tmp_path / "g.png").size) <= plots.LARGEST  # 64 of 70 filters


def test_one_channel_fills_a_square():
    assert plots.filter_image(np.ones((9, 1, 5, 5))).size == (19 * 10, 19 * 10)


def test_what_has_no_filters_is_refused(tmp_path):
    net = Net([Conv(4, 3), FC(2)], input_shape=(1, 8, 8))
    with pytest.raises(ArgumentError, match=r"there is no layer 'conv9'; convolutions are conv1$"):
        net.plot_filters("conv9", tmp_path / "f.png")
    with pytest.raises(ArgumentError, match=r"fc1 is FC, without filters to draw; convolutions are conv1$"):
        net.plot_filters("fc1", tmp_path / "f.png")
    with pytest.raises(ArgumentError, match=r"the ending '.txt' names no image format; .png would fit"):
        net.plot_filters("conv1", tmp_path / "f.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_history(tmp_path, ending):
    pytest.importorskip("matplotlib")
    history = History(
        loss=[2.0, 1.0, 0.5], accuracy=[0.1, 0.5, 0.8], val_loss=[2.0, 1.5, 1.2], val_accuracy=[0.2, 0.4, 0.6]
    )
    plots.plot_history(history, tmp_path / f"h.{ending}")
    assert (tmp_path / f"h.{ending}").stat().st_size > 5000


def test_history_of_a_regression_has_one_panel(tmp_path):
    pytest.importorskip("matplotlib")
    plots.plot_history(History(loss=[2.0, 1.0], accuracy=[0.0, 0.0]), tmp_path / "h.png")
    width, height = Image.open(tmp_path / "h.png").size
    assert width < 2 * height


def test_history_refusals(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    with pytest.raises(ArgumentError, match="the history has no epochs"):
        plots.plot_history(History(), tmp_path / "h.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ArgumentError, match=r'needs matplotlib; pip install "clconv\[plot\]" brings it'):
        plots.plot_history(History(loss=[1.0], accuracy=[0.5]), tmp_path / "h.png")
