"""What users do with a Net: predict, evaluate, fit, save, load, resume, and the mistakes they make."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import clconv as cc
from clconv import errors, planner

PATTERN = "INPUT 8x8x1 -> CONV 3x3x8 -> RELU -> POOL -> DROPOUT 0.3 -> FC 4"


def data(n=64, seed=0):
    """Four classes that a small network can tell apart: the bright quarter of the image."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n).astype(np.int32)
    x = rng.standard_normal((n, 1, 8, 8)).astype(np.float32)
    for i, label in enumerate(y):
        x[i, 0, label // 2 * 4 : label // 2 * 4 + 4, label % 2 * 4 : label % 2 * 4 + 4] += 2
    return x, y


@pytest.fixture
def net(device):
    with cc.Net(PATTERN, device=device) as net:
        yield net


def weights_equal(a, b):
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_learns_and_evaluates(net):
    x, y = data(256)
    history = net.fit(
        x, y, epochs=8, batch_size=32, optimizer=cc.SGD(0.1, momentum=0.9), verbose=False, validation=data(64, 1)
    )
    assert history.loss[-1] < history.loss[0]
    assert net.evaluate(*data(64, 1))["accuracy"] > 0.9
    assert history.val_accuracy[-1] > 0.9
    assert len(history.loss) == len(history.val_loss) == 8


def test_planned_is_measured(net):
    x, y = data(40)
    history = net.fit(x, y, epochs=1, batch_size=16, verbose=False, validation=(x, y))
    trainer = net._training.trainer
    assert history.peak_bytes == trainer.peak_bytes == trainer.session.allocator.peak_bytes
    net.predict(x[:5])
    assert net._test._session.allocator.peak_bytes == net.plan(batch=5).peak_bytes


def test_predict_takes_any_number_of_images(net):
    x, _ = data(77)
    whole = net.predict(x)
    assert whole.shape == (77, 4) and whole.dtype == np.float32
    singles = np.concatenate([net.predict(x[i : i + 1]) for i in range(5)])
    assert singles.tobytes() == whole[:5].tobytes()
    assert net.predict(x, batch_size=10).tobytes() == whole.tobytes()
    assert net.predict(x[:0]).shape == (0, 4)


def test_uint8_images_are_normalised(device):
    with cc.Net("INPUT 6x6x3 -> CONV 3x3x4 -> FC 2", device=device) as net:
        x = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
        planar = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
        np.testing.assert_allclose(net.predict(x), net.predict(planar), rtol=1e-5, atol=1e-6)


def test_same_seed_same_bits(device):
    x, y = data()
    runs = []
    for _ in range(2):
        with cc.Net(PATTERN, device=device, seed=3) as net:
            net.fit(x, y, epochs=2, batch_size=24, seed=7, verbose=False)
            runs.append(net.get_weights())
    assert weights_equal(*runs)


def test_save_and_load(net, tmp_path, device):
    x, y = data()
    net.fit(x, y, verbose=False)
    net.metadata["classes"] = ["a", "b", "c", "d"]
    net.normalization = cc.Normalization((0.5,), (0.25,))
    net.save(tmp_path / "net.safetensors")
    with cc.load(tmp_path / "net.safetensors", device=device) as other:
        assert other.metadata == net.metadata and other.normalization == net.normalization
        assert other.predict(x).tobytes() == net.predict(x).tobytes()


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_weights_alone(net, tmp_path, device, ending):
    net.save_weights(tmp_path / f"w.{ending}")
    with cc.Net(PATTERN, device=device, seed=9) as other:
        assert not weights_equal(other.get_weights(), net.get_weights())
        other.load_weights(tmp_path / f"w.{ending}")
        assert weights_equal(other.get_weights(), net.get_weights())


def test_resume_ends_with_the_same_bits(device, tmp_path):
    x, y = data(100)
    recipe = dict(
        epochs=3,
        batch_size=16,
        optimizer=cc.Adam(0.01),
        schedule=cc.Cosine(warmup=3),
        checkpoint_steps=4,
        verbose=False,
        validation=data(20, 1),
    )

    class StopIn(cc.Callback):
        def on_step(self, epoch, step, loss):
            return (epoch, step) == (1, 5)

    with cc.Net(PATTERN, device=device) as whole, cc.Net(PATTERN, device=device) as part:
        expected = whole.fit(x, y, checkpoint=tmp_path / "a.safetensors", **recipe)
        part.fit(x, y, checkpoint=tmp_path / "b.safetensors", callbacks=[StopIn()], **recipe)
        with cc.load(tmp_path / "b.safetensors", device=device) as resumed:
            history = resumed.fit(x, y, checkpoint=tmp_path / "b.safetensors", resume=True, **recipe)
            assert weights_equal(resumed.get_weights(), whole.get_weights())
            assert history.loss == expected.loss and history.val_loss == expected.val_loss


def test_resume_refuses_another_recipe(net, tmp_path):
    x, y = data()
    net.fit(x, y, checkpoint=tmp_path / "c.safetensors", verbose=False)
    with pytest.raises(errors.ModelFileError, match="made with batch_size=32, not 16"):
        net.fit(x, y, batch_size=16, checkpoint=tmp_path / "c.safetensors", resume=True, verbose=False)
    net.save(tmp_path / "m.safetensors")
    with pytest.raises(errors.ModelFileError, match="without training state"):
        net.fit(x, y, checkpoint=tmp_path / "m.safetensors", resume=True, verbose=False)


KILLED = """
import sys, numpy as np
sys.path.insert(0, {tests!r})
import conftest, clconv as cc
from test_net import PATTERN, data
x, y = data(200)
net = cc.Net(PATTERN, device={key!r})
net.fit(x, y, epochs=12, batch_size=8, optimizer=cc.SGD(0.02, momentum=0.9), checkpoint={path!r}, checkpoint_steps=3,
        resume=True, verbose=False, callbacks=[{callback}])
np.savez({result!r}, **net.get_weights())
"""


def test_killed_at_a_random_step_and_resumed(device, tmp_path):
    """SIGKILL whenever it comes: what is resumed ends with the bits of the run that was left alone."""
    if device.facts.loop_limit:
        pytest.skip("three processes build their kernels anew on a renderer of software")

    def script(name, callback="cc.Callback()"):
        path, result = str(tmp_path / f"{name}.safetensors"), str(tmp_path / f"{name}.npz")
        return KILLED.format(
            tests=os.path.dirname(__file__), key=device.key, path=path, result=result, callback=callback
        )

    subprocess.run([sys.executable, "-c", script("whole")], check=True, timeout=300)
    slow = "type('S', (cc.Callback,), {'on_step': lambda *a: __import__('time').sleep(0.005)})()"
    child = subprocess.Popen([sys.executable, "-c", script("killed", slow)])
    path = tmp_path / "killed.safetensors"
    while not path.exists() and child.poll() is None:
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 0.8)))
    assert child.poll() is None, "the run ended before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    subprocess.run([sys.executable, "-c", script("killed")], check=True, timeout=300)
    with np.load(tmp_path / "whole.npz") as a, np.load(tmp_path / "killed.npz") as b:
        assert all(a[name].tobytes() == b[name].tobytes() for name in a.files)


def resident_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat(net):
    """A thousand predictions and a hundred fits leave device bytes and resident memory where they were."""
    x, y = data(32)

    def predictions(count):
        for i in range(count):
            net.predict(x[: 1 + i % 3])
        return net._test._session.allocator.live_bytes

    def fits(count):
        for _ in range(count):
            net.fit(x, y, epochs=1, batch_size=16, verbose=False)
        return net._training.trainer.session.allocator.live_bytes

    share = 5 if net.device.facts.loop_limit else 1  # fewer on a renderer of software
    live, before = (predictions(50), fits(20)), resident_kib()
    predicted, predicted_kib = predictions(1000 // share), resident_kib()
    fitted, fitted_kib = fits(100 // share), resident_kib()
    assert (predicted, fitted) == live
    assert predicted_kib - before < 4096 and fitted_kib - before < 6144


def test_threads_share_a_net(net):
    x, _ = data(8)
    expected = net.predict(x)
    results = [None] * 6

    def work(i):
        for _ in range(10):
            results[i] = net.predict(x)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result.tobytes() == expected.tobytes() for result in results)


def test_networks_share_a_device(device):
    x, _ = data(4)
    with cc.Net(PATTERN, device=device, seed=1) as a, cc.Net(PATTERN, device=device, seed=2) as b:
        first = a.predict(x)
        assert b.predict(x).tobytes() != first.tobytes()
        assert a.predict(x).tobytes() == first.tobytes()


@pytest.mark.parametrize("joined", "01")
def test_garbage_frees_its_memory(device, joined, monkeypatch):
    """A network that refers to itself goes by the cycle collector, with its allocator, while the queue may be busy."""
    monkeypatch.setenv("CLCONV_JOIN", joined)
    failures = []
    monkeypatch.setattr(sys, "unraisablehook", failures.append)
    net = cc.Net(PATTERN, device=device)
    net.itself = net
    net.predict(data(2)[0])
    net._test._session._executables.values()[-1].recording.run()
    del net
    gc.collect()
    assert not failures


def test_close_frees_the_device(device):
    net = cc.Net(PATTERN, device=device)
    net.predict(data(2)[0])
    allocator = net._test._session.allocator
    assert allocator.live_bytes > 0
    net.close()
    assert allocator.live_bytes == 0
    with pytest.raises(errors.StateError, match="closed"):
        net.predict(data(2)[0])


class TestMistakes:
    """Each message names the thing, the numbers, and what would fit."""

    def test_image_shape(self, net):
        with pytest.raises(errors.ShapeError, match=r"images of shape \(2, 1, 9, 9\) where \(N, 1, 8, 8\) is expected"):
            net.predict(np.zeros((2, 1, 9, 9), np.float32))

    def test_dtype(self, net):
        with pytest.raises(errors.ArgumentError, match="images of type float64"):
            net.predict(np.zeros((2, 1, 8, 8)))

    def test_label_out_of_range(self, net):
        x, y = data()
        y[3] = 4
        with pytest.raises(errors.DataError, match="label 4 .*image 3.*0.*3|image 3.*label 4"):
            net.fit(x, y, verbose=False)

    def test_arguments_of_another_kind(self, net):
        x, y = data()
        for wrong, message in (
            ({"epochs": 1.5}, "epochs 1.5 and batch_size 32 must be integers from 0 and 1 on"),
            ({"batch_size": 0}, "epochs 1 and batch_size 0 must be integers"),
            ({"optimizer": "sgd"}, r"'sgd' is no optimizer; SGD\(0.01, momentum=0.9\)"),
            ({"schedule": "cosine"}, r"'cosine' is no schedule; Cosine\(warmup=100\)"),
            ({"callbacks": [5]}, "5 is no Callback"),
            ({"checkpoint_steps": -1}, "checkpoint_steps -1 is not an integer from 0 on"),
            ({"validation": 0.5}, r"validation is float; \(x, y\) or a Dataset would fit"),
        ):
            with pytest.raises(errors.ArgumentError, match=message):
                net.fit(x, y, verbose=False, **wrong)
        with pytest.raises(errors.ArgumentError, match="SGD: rate '0.1' is not a number above 0"):
            cc.SGD("0.1")
        with pytest.raises(errors.ArgumentError, match=r"SGD: momentum None is not a number in \[0, 1\)"):
            cc.SGD(0.1, momentum=None)
        with pytest.raises(errors.ArgumentError, match=r"Adam: beta1 2 is not a number in \[0, 1\)"):
            cc.Adam(0.1, beta1=2)
        with pytest.raises(errors.ArgumentError, match="RMSProp: epsilon 0 is not a number above 0"):
            cc.RMSProp(0.1, epsilon=0)
        with pytest.raises(errors.ArgumentError, match="Step: at=0.5 is no tuple of shares"):
            cc.Step(at=0.5)
        with pytest.raises(errors.ArgumentError, match="fit: callbacks is builtin_function_or_method"):
            net.fit(x, y, verbose=False, callbacks=print)
        with pytest.raises(errors.ArgumentError, match="Net: device 0 is no Device"):
            cc.Net("INPUT 8x8x1 -> FC 2", device=0)
        with pytest.raises(errors.ArgumentError, match="load: None is no path"):
            cc.load(None)
        with pytest.raises(errors.ArgumentError, match="set_weights: list is no dictionary"):
            net.set_weights([1])
        name, shape = next(iter(net.network.array_shapes().items()))
        with pytest.raises(errors.ArgumentError, match=f"set_weights: {name} holds <U1, not numbers"):
            net.set_weights({name: np.full(shape, "a")})
        with pytest.raises(errors.ArgumentError, match="batch_size '3' is not a number of images"):
            net.predict(x, batch_size="3")

    def test_empty_data(self, net):
        with pytest.raises(errors.DataError, match="no images|empty|0 images"):
            net.fit(np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int32), verbose=False)

    def test_nothing_to_train(self, device):
        x = np.zeros((2, 3, 8, 8), np.float32)
        with cc.Net("INPUT 8x8x3 -> RELU -> POOL", device=device) as net:
            with pytest.raises(errors.ArgumentError, match="nothing is to be trained: the network has no weights, or"):
                net.fit(x, np.zeros((2, 3, 4, 4), np.float32), loss="mse", verbose=False)
            with pytest.raises(errors.ShapeError, match="softmax: scores 2x3x4x4 have rows and columns"):
                net.plan(2, "train")

    def test_missing_labels(self, net):
        with pytest.raises(errors.ArgumentError, match="labels y are missing"):
            net.fit(data()[0])

    def test_unknown_layer_in_a_pattern(self):
        with pytest.raises(errors.PatternError, match="there is no layer CONVX.*character 16"):
            cc.Net("INPUT 8x8x1 -> CONVX 3x3x8")

    def test_non_finite_loss(self, net):
        x, y = data()
        before = net.get_weights()
        x[5, 0, 2, 2] = np.nan
        with pytest.raises(errors.NonFiniteError, match=r"loss became nan at step 1: the input images"):
            net.fit(x, y, batch_size=64, verbose=False)
        assert weights_equal(net.get_weights(), before)

    def test_non_finite_weights_are_named(self, net):
        x, y = data()
        weights = net.get_weights()
        weights["fc1.bias"][2] = np.inf
        net.set_weights(weights)
        with pytest.raises(errors.NonFiniteError, match=r"step 1: fc1.bias of layer fc1 is not finite"):
            net.fit(x, y, verbose=False)

    def test_overflowing_layer_is_named(self, net):
        x, y = data()
        weights = net.get_weights()
        weights["conv1.weight"][:] = 3e38
        net.set_weights(weights)
        with pytest.raises(errors.NonFiniteError, match="the output of layer conv1 is the first"):
            net.fit(x, y, verbose=False)

    def test_budget(self, net):
        x, y = data()
        with pytest.raises(errors.BudgetError, match="more than the 64 bytes of the budget") as refusal:
            net.predict(x, memory=64)
        needed = refusal.value.needed_bytes
        with pytest.raises(errors.BudgetError, match=rf"at least {needed} bytes .* {needed - 1} bytes of the budget"):
            net.predict(x, memory=needed - 1)
        assert net._test is None or net._test._session is None
        assert net.predict(x, memory=needed).shape == (64, 4)
        with pytest.raises(errors.BudgetError, match="Nothing was allocated"):
            net.fit(x, y, memory="10KB", verbose=False)
        with pytest.raises(errors.ArgumentError, match="'64 parsecs' is no amount"):
            net.predict(x, memory="64 parsecs")

    def test_amounts(self):
        amounts = {
            "9" * 400: int("9" * 400), "1.1KB": 1100, "64MB": 64_000_000, "64MiB": 1 << 26, "64 mb": 64_000_000,
            "64": 64, 64e3: 64000, 1e16: 10**16, np.float32(64.5): 64, np.int64(7): 7, None: None,
        }  # fmt: skip
        assert {written: planner.parse_bytes(written) for written in amounts} == amounts
        for wrong in ("1e400GB", "-1", "64 M", "", "inf", -1, float("nan"), float("inf"), True, b"64MB", [64]):
            with pytest.raises(errors.ArgumentError, match="is no amount; 64MB, 64MiB, 1.2GB or a number of bytes"):
                planner.parse_bytes(wrong)
        for nothing in ("0", 0, 0.5, "0.1B"):
            with pytest.raises(errors.ArgumentError, match="is no amount; at least one byte is needed"):
                planner.parse_bytes(nothing)
        assert [planner.format_bytes(n) for n in (9999, 10304, 1 << 20)] == ["9999 B", "10.1 KiB", "1.00 MiB"]

    def test_budget_of_the_environment(self, net, monkeypatch):
        monkeypatch.setenv("CLCONV_MEMORY", "-1")
        with pytest.raises(errors.ArgumentError, match="CLCONV_MEMORY: '-1' is no amount; 64MB"):
            net.predict(data()[0])

    def test_weights_that_do_not_match(self, net, tmp_path):
        with pytest.raises(errors.ArgumentError, match=r"the network has no 'conv9.weight'"):
            net.set_weights({"conv9.weight": np.zeros(1)})
        with pytest.raises(errors.ArgumentError, match=r"fc1.bias has shape \(4,\), not \(5,\)"):
            net.set_weights({"fc1.bias": np.zeros(5)})
        with pytest.raises(errors.ArgumentError, match=r"fc1.bias holds numbers beyond 3.4e\+38, float32's"):
            net.set_weights({"fc1.bias": np.full(4, 1e300)})
        np.savez(tmp_path / "w.npz", other=np.zeros(3))
        with pytest.raises(
            errors.ModelFileError, match=r"missing conv1.bias \(8,\), .*not in the network other \(3,\)"
        ):
            net.load_weights(tmp_path / "w.npz")

    def test_files(self, net, tmp_path):
        with pytest.raises(errors.ModelFileError, match="there is no such file"):
            cc.load(tmp_path / "none.safetensors")
        net.save(tmp_path / "net.safetensors")
        content = (tmp_path / "net.safetensors").read_bytes()
        for size in (0, 5, 100, len(content) - 1):
            (tmp_path / "cut.safetensors").write_bytes(content[:size])
            with pytest.raises(errors.ModelFileError, match="not a readable safetensors file"):
                cc.load(tmp_path / "cut.safetensors")
        with pytest.raises(errors.ModelFileError, match="cannot be written: No such file"):
            net.save(tmp_path / "no" / "net.safetensors")

    @pytest.mark.parametrize("name", ["m.pth", "m.h5", "m.npz"])
    def test_names_that_say_something_else(self, net, tmp_path, name):
        with pytest.raises(
            errors.ModelFileError, match=r"networks are \.safetensors or \.onnx files; m\.safetensors would"
        ):
            net.save(tmp_path / name)
        with pytest.raises(errors.ModelFileError, match=r"checkpoints are \.safetensors files; m\.safetensors would"):
            net.fit(*data(), checkpoint=tmp_path / name, verbose=False)
        assert not any(tmp_path.iterdir())

    def test_files_of_others(self, tmp_path):
        told = {
            "pth": "torch.onnx.export",
            "tflite": "tf2onnx",
            "npz": r"net\.load_weights",
            "x": "not a readable safe",
        }
        for ending, how in told.items():
            (tmp_path / f"m.{ending}").write_bytes(b"PK\x03\x04" + bytes(60))
            with pytest.raises(errors.ModelFileError, match=rf"m\.{ending}: .*{how}"):
                cc.load(tmp_path / f"m.{ending}")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_full_disk_keeps_the_old_file(self, net, tmp_path, monkeypatch):
        net.save(tmp_path / "net.safetensors")
        before = (tmp_path / "net.safetensors").read_bytes()

        def full(tensors, path, metadata=None):
            with open("/dev/full", "wb") as file:
                file.write(b"x" * 4096)

        monkeypatch.setattr("clconv.io.model_file.save_file", full)
        with pytest.raises(errors.ModelFileError, match="No space left on device; what was there is unchanged"):
            net.save(tmp_path / "net.safetensors")
        assert (tmp_path / "net.safetensors").read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]

    def test_out_of_memory_names_the_bytes(self, device):
        from clconv._core.memory import Allocator

        allocator = Allocator(device)
        wanted = device.facts.max_alloc_bytes + 64
        with pytest.raises(errors.OutOfMemoryError, match=rf"conv1: {wanted} bytes for weights in one piece"):
            allocator.allocate(wanted, "weights", "conv1")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_fork_after_first_use(self, net):
        x, _ = data(2)
        net.predict(x)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                net.predict(x)
                message = "no error"
            except errors.StateError as error:
                message = str(error)
            os.write(writer, message.encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert "forked after first use" in os.read(reader, 1000).decode()


def test_building_is_reported_up_to_the_first_run(device):
    net = cc.Net("INPUT 8x8x3 -> CONV 3x3x5 -> RELU -> FC 2", device=device)
    told = []
    x = np.zeros((2, 3, 8, 8), np.float32)
    with net:
        net.predict(x, build_progress=lambda done, total: told.append((done, total)))
        launches = told[-1][1]
        assert told[-launches:] == [(i + 1, launches) for i in range(launches)]
        told.clear()
        net.predict(x, build_progress=lambda done, total: told.append((done, total)))
        assert told == []
        net.evaluate(x, np.zeros(2, np.int64), build_progress=lambda done, total: told.append((done, total)))
        assert told
