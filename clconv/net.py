"""`Net`: a network with its weights, and everything one does with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from . import finetune, plots, report
from .data import Augmentation, Dataset, Loader, Normalization, check_seed
from .device import Device, choose
from .engine import Session, Usage
from .errors import ArgumentError, ModelFileError, StateError
from .inference import OUTPUT, Inference, evaluate_batches, run_batches
from .inputs import images, labelled, network_of, replacements
from .io.model_file import ModelFile, check_arrays, check_ending, read_arrays, read_model, write_arrays, write_model
from .io.onnx_export import onnx_model
from .io.onnx_file import read_onnx
from .io.onnx_network import OnnxNetwork
from .io.onnx_write import described, write_onnx
from .io.torch_names import matched, renamed
from .nn.base import Layer
from .nn.network import Network
from .nn.symbol import Symbol
from .packing import Array
from .plan import Plan
from .planner import budget_bytes
from .program import Progress as BuildProgress
from .terms import DEFAULT, Terms
from .train import fit as loop
from .train.history import Callback, History, PrintEpochs
from .train.optimizers import SGD, Optimizer
from .train.schedules import Constant
from .train.trainer import Trainer
from .training import Recipe, Saving, Training, check_fit


class Net:
    """A network on a device.

    Args:
        description: a pattern in the CS231n notation ("INPUT 32x32x3 -> ..."), a list of layers (with
            `input_shape`), the symbol of the output, a `Network`, or the `OnnxNetwork` of a file.
        input_shape: (C, H, W), for a list of layers.
        device: name or "platform:device" as `clconv devices` lists them, or a `Device`; default: see there.
        seed: of the initialisation (He where a ReLU follows, else Xavier).
        weights: all arrays by name instead, as `get_weights` returns them.

    Attributes:
        network: the description. metadata: kept in saved files, such as {"classes": [...]}.
        normalization: how uint8 images become numbers; None divides them by 255.

    A Net is a context manager; `close()` frees its device memory. The device is chosen, and memory taken, only
    when something runs.

    Raises:
        PatternError, ShapeError, ArgumentError: the description is wrong; the message says where.
    """

    def __init__(
        self,
        description: str | Sequence[Layer] | Symbol | Network,
        *,
        input_shape: Sequence[int] | None = None,
        device: str | Device | None = None,
        seed: int = 0,
        weights: Mapping[str, Array] | None = None,
    ) -> None:
        self.network = network_of(description, input_shape)
        self.metadata: dict[str, Any] = {}
        self.normalization: Normalization | None = None
        self._seed = check_seed(seed, "Net")
        self._held: dict[str, Array] | None = None
        if weights is not None:
            check_arrays(self.network, weights, "Net: weights")
            self._held = {name: np.asarray(array, np.float32) for name, array in weights.items()}
        if not (device is None or isinstance(device, (str, Device))):
            raise ArgumentError(
                f'Net: device {device!r} is no Device; a name, or "0:0" as `clconv devices` lists them, is'
            )
        self._wanted_device = device
        self._device: Device | None = device if isinstance(device, Device) else None
        self._test: Inference | None = None
        self._training: Training | None = None
        self._lock = threading.RLock()
        self._usages: dict[str, Usage] = {}
        self._closed = False

    # ---------------------------------------------------------------- life

    @property
    def device(self) -> Device:
        """The device, chosen at first use.

        Raises:
            NoDeviceError, DeviceChoiceError: see `clconv.device.choose`.
        """
        if self._device is None:
            self._device = choose(self._wanted_device if isinstance(self._wanted_device, str) else None)
        return self._device

    def close(self) -> None:
        """Frees all device memory; the network cannot run any more, its weights can still be read and saved."""
        with self._lock:
            if not self._closed:
                self._release_training()
                self._release_test()
                self._closed = True

    def __enter__(self) -> Net:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = "x".join(map(str, self.network.input_shape))
        return f"<Net: {self.network.contents}, input {size}, {self.parameter_count} parameters>"

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("net: it was closed; make or load it again")

    def _release_test(self) -> None:
        if self._test is not None:
            self._note_usage(self._test.usage)
            self._test.release()

    def _release_training(self) -> None:
        """Brings the trained weights home and frees what training held."""
        if self._training is not None and self._training.trainer is not None:
            self._held = self._training.trainer.arrays()
            self._note_usage(self._training.trainer.session.usage("train"))
            self._training.release()

    def _note_usage(self, usage: Usage | None) -> None:
        if usage is not None:
            self._usages[usage.mode] = usage

    # ---------------------------------------------------------------- reports

    @property
    def usages(self) -> list[Usage]:
        """Device memory of the last runs in test-time mode and in training, planned and measured."""
        with self._lock:
            if self._test is not None:
                self._note_usage(self._test.usage)
            if self._training is not None and self._training.trainer is not None:
                self._note_usage(self._training.trainer.session.usage("train"))
            return [self._usages[mode] for mode in sorted(self._usages)]

    def summary(
        self,
        batch: int = 1,
        mode: str = "both",
        memory: str | int | None = None,
        *,
        exact: bool = False,
        spill: str | None = None,
        storage: str | None = None,
    ) -> str:
        """Prints, and returns, the table of the CS231n notes with what is planned and what runs measured.

        Args:
            batch: images. mode: "test", "train" or "both". memory, exact, spill, storage: as for `plan`.
        """
        text = str(report.report(self, batch, mode, memory, terms=Terms(exact, spill, storage)))
        print(text)
        return text

    def plot_filters(self, layer: str, path: str | os.PathLike[str]) -> None:
        """Writes a picture of a convolution's filters; see `clconv.plots.plot_filters`."""
        plots.plot_filters(self, layer, path)

    # ---------------------------------------------------------------- weights

    @property
    def _arrays(self) -> dict[str, Array]:
        """All arrays by name; drawn at first use, so that plans of large networks cost nothing."""
        if self._held is None:
            self._held = self.network.initial(self._seed)
        return self._held

    @property
    def parameter_count(self) -> int:
        """Learnt values, running statistics not counted."""
        values = self.network.graph(self.network.batch, train=False).persistent.values()
        return sum(int(np.prod(v.parameter.public_shape)) for v in values if v.role == "param" and v.parameter)

    def get_weights(self) -> dict[str, Array]:
        """Copies of all parameters and running statistics, as "layer.weight": float32 array."""
        with self._lock:
            trainer = self._training.trainer if self._training is not None else None
            return {n: a.copy() for n, a in self._arrays.items()} if trainer is None else trainer.arrays()

    def set_weights(self, arrays: Mapping[str, Array]) -> None:
        """Replaces some or all parameters by name.

        Raises:
            ArgumentError: a name or shape that the network does not have, or no numbers; nothing was changed.
        """
        taken = replacements(self.network, arrays)
        with self._lock:
            self._release_training()
            self._release_test()
            self._arrays.update(taken)

    def save(self, path: str | os.PathLike[str], *, softmax: bool = False, preprocessing: bool = False) -> None:
        """Writes description and weights into one file, atomically: safetensors or, for other programs, ONNX (.onnx).

        Args:
            softmax: (ONNX) put a softmax behind the output. preprocessing: (ONNX) put the normalisation in front,
                so that the network reads pixels 0..255 as float32.

        Raises:
            ModelFileError: another ending; the file cannot be written (what was there before is intact); a layer has no
                form in ONNX. ArgumentError: `softmax` or `preprocessing` for another file, or a network read from ONNX.
        """
        if str(path).lower().endswith(".onnx"):
            arrays, metadata = self.get_weights(), self._metadata()
            return write_onnx(path, onnx_model(self.network, arrays, metadata, softmax, preprocessing))
        if softmax or preprocessing:
            raise ArgumentError(f"save: softmax and preprocessing are for .onnx files, not {path}")
        check_ending(path, "networks", ".onnx")
        write_model(path, ModelFile(self.network, self.get_weights(), self._metadata()))

    def _metadata(self) -> dict[str, Any]:
        """What files keep besides network and weights."""
        described = {} if self.normalization is None else {"normalization": asdict(self.normalization)}
        return {**self.metadata, **described}

    def save_weights(self, path: str | os.PathLike[str], *, naming: str = "clconv") -> None:
        """Writes the weights alone, by name: .safetensors, or .npz for NumPy; `naming` "torch": by torchvision's."""
        write_arrays(path, renamed(self.network, self.get_weights(), naming))

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Takes all weights from a .safetensors or .npz file; names, the network's or PyTorch's, and shapes must agree.

        Raises:
            ModelFileError: the file is missing, damaged, or does not match; nothing was changed.
        """
        self.set_weights(matched(self.network, read_arrays(path), str(path)))

    # ---------------------------------------------------------------- fine-tuning

    def freeze(self, *patterns: str) -> None:
        """Lets training leave parameters as they are: those of the layers or names that the patterns mean.

        Args:
            patterns: "conv1", "conv1.weight", "layer1*", in place of earlier ones; none: nothing is frozen.
                Running statistics of batch normalisation move all the same.

        Raises:
            ArgumentError: a pattern means no parameter.
        """
        with self._lock:
            self._take(self.network.with_frozen(finetune.frozen(self.network, patterns)), None)

    def replace_head(self, classes: int, *, seed: int = 0) -> None:
        """Gives the network `classes` outputs: the last layer with weights gets others, drawn anew.

        Raises:
            ArgumentError: the network does not end in a fully-connected layer or a convolution.
        """
        with self._lock:
            self._take(*finetune.with_head(self.network, self.get_weights(), classes, seed))
            self.metadata.pop("classes", None)

    def _take(self, network: Network, arrays: dict[str, Array] | None) -> None:
        """Another network, with other arrays or the same; what the device held is released."""
        self._release_training()
        self._release_test()
        self.network, self._test, self._training = network, None, None
        self._held = self._held if arrays is None else arrays

    # ---------------------------------------------------------------- inference

    def plan(
        self,
        batch: int = 1,
        mode: str = "test",
        memory: str | int | None = None,
        *,
        exact: bool = False,
        spill: str | None = None,
        storage: str | None = None,
        loss: str = "softmax",
        optimizer: Optimizer | None = None,
        bn: str | None = None,
    ) -> Plan:
        """What a run would take and how it would go, without allocating anything.

        Args:
            batch: images. mode: "test" or "train" (one step with `loss` and `optimizer`).
            memory: budget that it must fit, like "64MB"; layers run in strips of rows, and weights stay in a mapped
                file, as far as it asks for. exact: (test mode) with the algorithms of the fastest plan only.
            spill: (test mode) "host" lets activations that nobody reads for a while wait in host memory, too.
            storage: "float16" lets activations that nobody reads for a while wait so, where the budget asks for it,
                and in test mode stores weights so; arithmetic stays float32.
            bn: see `fit`.

        Returns:
            The plan. In training it may be that of a part of the batch; `told` says what was done so that it fits.

        Raises:
            BudgetError: it needs more; the message says how much at least.
        """
        if mode not in ("test", "train"):
            raise ArgumentError(f'plan: mode {mode!r} is not "test" or "train"')
        if not isinstance(batch, (int, np.integer)) or batch < 1:
            raise ArgumentError(f"plan: batch {batch!r} is not a number of images from 1 on")
        terms = Terms(exact, spill, storage)
        if mode == "train":
            terms.for_training("plan")
            optimizer = optimizer or SGD(0.01, momentum=0.9)
            trainer = Trainer(self.network, self.device, loss, optimizer, bn=bn, storage=storage)
            return trainer.plan_within({"train": {int(batch)}}, budget_bytes(memory))[0]
        return self._inference.plan(OUTPUT, int(batch), budget=budget_bytes(memory), terms=terms)

    def predict(
        self,
        x: Array,
        *,
        batch_size: int | None = None,
        memory: str | int | None = None,
        exact: bool = False,
        spill: str | None = None,
        storage: str | None = None,
        build_progress: BuildProgress | None = None,
    ) -> Any:
        """The network's output for any number of images, in test-time mode.

        Args:
            x: float32 (N, C, H, W), or uint8 images as (N, H, W, C) or (N, C, H, W), which are normalised. A
                network from an ONNX file takes what its file says, of any size where the file leaves it open.
            batch_size: images per run; left out, up to 32 and as many as the memory allows.
            memory: budget like "64MB"; default CLCONV_MEMORY.
            exact: the algorithms of the fastest run whatever the budget, so that all budgets give the same bits.
            spill: "host": activations may wait in host memory where the budget asks for it; not a bit changes.
            storage: "float16": weights take half the memory, and so do activations that wait where the budget asks
                for it; each value is within 2^-11 of itself, and at most 65504.
            build_progress: called with (done, total) while kernels are built; default a line on a terminal.

        Returns:
            float32 (N, K) where the network ends in vectors, else (N, K, P, Q). From an ONNX file: the output as
            the file describes it; of a network with several outputs, a dictionary of them by name.

        Raises:
            ShapeError: the images do not have the network's input shape.
            BudgetError: not even one image fits; nothing was allocated.
        """
        self._check_open()
        terms = DEFAULT if (exact, spill, storage) == (False, None, None) else Terms(exact, spill, storage)
        x = images(self.network, self.normalization, x, "predict")
        network, budget = self.network.fitted(x.shape), budget_bytes(memory)
        if len(x):
            batch, plan = self._inference.runs(len(x), batch_size, budget, OUTPUT, network, terms)
            with self._lock:
                if self._held is None:  # not by `self.network`, whose own size may be one that does not work
                    self._held = network.initial(self._seed)
                session = self._open(plan, budget)
                for stage in plan.stages:
                    session.prepare(stage, build_progress)
                outputs = run_batches(session, plan, x, batch, network.outputs)
        else:
            types = network.output_types(network.batch)
            outputs = {name: np.empty((0, *shape[1:]), dtype) for name, (shape, dtype) in types.items()}
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def evaluate(
        self,
        x: Array | Dataset,
        y: Array | None = None,
        *,
        loss: str = "softmax",
        batch_size: int | None = None,
        memory: str | int | None = None,
        build_progress: BuildProgress | None = None,
    ) -> dict[str, float]:
        """Mean loss and accuracy on labelled images, in test-time mode: {"loss": ..., "accuracy": ...}."""
        self._check_open()
        dataset = labelled(self.network, x, y, loss, "evaluate")
        budget = budget_bytes(memory)
        batch, plan = self._inference.runs(len(dataset), batch_size, budget, loss)
        loader = Loader(dataset, batch, shuffle=False, normalization=self.normalization)
        with self._lock:
            session = self._open(plan, budget)
            session.prepare(plan, build_progress)
            value, accuracy = evaluate_batches(session, plan, loader)
        return {"loss": value, "accuracy": accuracy}

    def _open(self, plan: Plan, budget: int | None) -> Session:
        """The session in test-time mode; what training held is released first."""
        self._release_training()
        return self._inference.open(plan, self._arrays, budget)

    @property
    def _inference(self) -> Inference:
        if self._test is None:
            self._test = Inference(self.network, self.device)
        return self._test

    # ---------------------------------------------------------------- training

    def fit(
        self,
        x: Array | Dataset,
        y: Array | None = None,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        loss: str = "softmax",
        optimizer: Optimizer | None = None,
        schedule: Constant | None = None,
        validation: tuple[Array, Array] | Dataset | None = None,
        augmentation: Augmentation | None = None,
        memory: str | int | None = None,
        bn: str | None = None,
        storage: str | None = None,
        seed: int = 0,
        shuffle: bool = True,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_steps: int = 0,
        resume: bool = False,
        verbose: bool = True,
        report: Callable[[loop.Progress], None] | None = None,
        build_progress: BuildProgress | None = None,
    ) -> History:
        """Trains on labelled images.

        Args:
            x, y: float32 (N, C, H, W) or uint8 images and integer labels, or a `Dataset`; for "mse" y holds
                targets of the output's shape.
            epochs: passes over the data. batch_size: images per step; the last batch may be smaller.
            loss: "softmax", "svm" or "mse". optimizer: default SGD(0.01, momentum=0.9). schedule: default
                constant. validation: (x, y) or a `Dataset`, evaluated after each epoch.
            augmentation: of uint8 images. memory: budget like "512MB" for all that training takes; what does not fit
                is computed in less memory and more time: the forward pass again, batches in parts.
            bn: "per_micro_batch" allows parts where batches are normalised, each by its own statistics.
            storage: "float16" lets activations wait for their gradients so, where the budget asks for it: gradients see
                values rounded by 2^-11 of themselves; the forward pass and weights stay float32.
            seed: of shuffling, augmentation and dropout. The same seed gives the same bits on one device.
            checkpoint: file for weights, optimizer state and counters, written after each epoch, every
                `checkpoint_steps` steps, and on Ctrl-C. resume: go on from it if it is there; the run ends
                with the same bits as one that was not interrupted.
            verbose: print a line per epoch. report: called after each step, for progress displays.

        Raises:
            ShapeError, ArgumentError, DataError: data or arguments that do not fit.
            NonFiniteError: the loss became NaN or infinite: says at which step and layer.
            BudgetError: training needs more memory; nothing was allocated.
        """
        self._check_open()
        optimizer, schedule = optimizer or SGD(0.01, momentum=0.9), schedule or Constant()
        check_fit(epochs, batch_size, optimizer, schedule, validation, callbacks, checkpoint_steps)
        dataset = labelled(self.network, x, y, loss, "fit")
        loader = Loader(
            dataset,
            batch_size,
            seed=seed,
            shuffle=shuffle,
            augmentation=augmentation,
            normalization=self.normalization,
        )
        held_out = None
        if validation is not None:
            held, labels = (validation, None) if isinstance(validation, Dataset) else validation
            held_out = Loader(
                labelled(self.network, held, labels, loss, "validation"),
                batch_size,
                shuffle=False,
                normalization=self.normalization,
            )
        with self._lock:
            self._release_test()
            recipe = Recipe(loss, optimizer, schedule, epochs, seed, bn, storage)
            saving = Saving(checkpoint, checkpoint_steps, resume, self._metadata())
            printing = [PrintEpochs(epochs)] if verbose else []
            if self._training is None:
                self._training = Training(self.network, self.device)
            return self._training.run(
                self._arrays,
                loader,
                held_out,
                recipe,
                budget_bytes(memory),
                saving,
                [*callbacks, *printing],
                report,
                build_progress,
            )


def load(path: str | os.PathLike[str], *, device: str | Device | None = None) -> Net:
    """A network from a file that `Net.save` or a checkpoint wrote, or from an ONNX file (.onnx).

    Raises:
        ModelFileError: missing, truncated or not a model, or with operators that are not supported: names them.
        ArgumentError: `path` is none.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"load: {path!r} is no path of a file")
    if str(path).lower().endswith(".onnx"):
        file = read_onnx(path)
        net, metadata = Net(OnnxNetwork(file), device=device), described(file.metadata)
    else:
        model = read_model(path)
        net, metadata = Net(model.network, device=device, weights=model.arrays), model.metadata
    net.metadata = dict(metadata)
    if isinstance(metadata.get("normalization"), Mapping):  # of another program's it may be a word
        try:
            net.normalization = Normalization(**net.metadata.pop("normalization"))
        except (TypeError, ArgumentError) as error:
            raise ModelFileError(f"{path}: damaged: its normalization is none: {error}") from error
    return net
