"""What fits into a budget, found over plans: it does, and one more does not."""

import json

import pytest
from helpers import run

import clconv as cc
from clconv.errors import ArgumentError
from clconv.fits import fits

PATTERN = "INPUT 16x16x3 -> [CONV 3x3x16 -> RELU]*2 -> POOL -> FC 10"
PHOTO = "INPUT 32x32x3 -> CONV 3x3x16 -> RELU -> CONV 3x3x3"


def test_the_largest_batches_fit_and_larger_ones_do_not():
    with cc.Net(PATTERN) as net:
        budget = net.plan(11, exact=True).peak_bytes
        test, train = fits(net, budget).found
        assert test.at_once >= 11 and test.peak_bytes <= budget and test.at_all is None
        assert test.at_once == 1024 or net.plan(test.at_once + 1, memory=1 << 62).arena_bytes > budget
        whole = net.plan(16, "train").peak_bytes
        train = fits(net, whole).found[1]
        assert train.at_once >= 8 and not net.plan(train.at_once, "train", memory=whole).told
        assert net.plan(train.at_once + 1, "train", memory=1 << 62).peak_bytes > whole


def test_images_where_their_size_is_free():
    with cc.Net(PHOTO) as net:
        budget = net.plan(memory=1 << 40).peak_bytes
        image = fits(net, budget).found[2]
        assert image.what == "image" and 24 <= image.at_once <= image.at_all
    with cc.Net(net.network.with_image((image.at_all, image.at_all))) as larger:
        assert larger.plan(memory=budget).peak_bytes <= budget
    with cc.Net(net.network.with_image((2 * image.at_once, 2 * image.at_once))) as larger:
        assert larger.plan(memory=1 << 62).arena_bytes > budget
    with cc.Net(PATTERN) as net:
        assert len(fits(net, budget).found) == 2, "the fully-connected layer fixes the size"


def test_nothing_fits():
    with cc.Net(PATTERN) as net:
        test, train = fits(net, 100).found
    assert (test.at_once, test.at_all, train.at_once, train.at_all) == (0, 0, 0, 0)
    assert "are needed" in test.note and "are needed" in train.note
    result = run("fit-check", PATTERN, "--memory", "100")
    assert result.exit_code == 1
    assert f"images at a time, predicting: {test.note}" in result.output.splitlines(), "the reason is not cut"


def test_the_command():
    result = run("fit-check", PATTERN, "--memory", "1MB")
    assert result.exit_code == 0, result.output
    assert "images at a time, predicting" in result.output and "images per training step" in result.output
    assert max(map(len, result.output.splitlines())) <= 130
    content = json.loads(run("fit-check", PATTERN, "--memory", "1MB", "--json").stdout)
    assert content["budget"] == 1_000_000 and [fit["mode"] for fit in content["found"]] == ["test", "train"]


def test_a_fixed_batch_is_refused(monkeypatch):
    with cc.Net(PATTERN) as net:
        monkeypatch.setattr(type(net.network), "fixed_batch", 4)
        with pytest.raises(ArgumentError, match="the file fixes the batch at 4"):
            fits(net, 1000)
