"""What every operator of a graph answers: the base class of the layers in pyx/.

A layer knows neither graph nor queue. Before anything is allocated it says what shapes it makes, what it
costs and how it could run; then it records its launches. Its gradient is a few more layers.
"""

from dataclasses import dataclass

from clconv import tuned
from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

POOLS = ("max", "avg", "l2")  # in the order of cl/pooling.h: KIND
# Activation codes of cl/common.h, in the order of its switch.
ACTIVATIONS = ("none", "relu", "leaky_relu", "relu6", "sigmoid", "tanh", "silu", "hard_swish")


@dataclass(frozen=True)
class Choice:
    """One way to run a layer.

    Attributes:
        name: the algorithm, as printed. tiles: its build definitions. workspace_bytes: exact; exists
            only while the layer runs.
    """

    name: str
    tiles: tuple = ()
    workspace_bytes: int = 0


@dataclass(frozen=True)
class Cost:
    """What one run takes: floating-point operations (a multiply-add is two) and bytes moved."""

    flops: int
    traffic_bytes: int


class Layer:
    """Base of all operators. Instances are immutable.

    Class attributes:
        inputs, outputs: operand names. An input may be None where the layer allows it.
        keeps: names among them that the gradient reads; all else may be freed.
        updates: names of inputs that are overwritten where they are (weights, running statistics).
        inplace: {output name: names of inputs whose memory it may take over}; the shapes and layouts
            must agree, which the planner checks.
        reinterprets: outputs hold the bytes of the inputs as they are, so that `inplace` only needs as many bytes.
        accepts: {input name: layouts it can read}; "block" where not listed.
        pieces: names of inputs that may be given as several pieces along the channels.
        activates: whether `activation` can be applied in the epilogue.
        slices: blocks of output channels can be computed apart, from their part of the weights w; with the same bits.
        halves: names of weights that may be stored as float16.
        strips: outputs can be computed in strips of rows that start at multiples of it, with the same bits; 0: whole.
        eager: strips come as soon as there are rows of its input, which need not be kept then, whoever reads it.
        bands: likewise of columns.
    """

    inputs = ("x",)
    outputs = ("y",)
    keeps = ()
    updates = ()
    inplace = {}
    reinterprets = False
    accepts = {}
    pieces = ()
    activates = False
    slices = False
    halves = ()
    strips = bands = 0
    eager = False
    activation = "none"
    slope = 0.0

    def infer(self, specs):
        """Output specs for input specs (None for an absent input); raises ShapeError where they do not fit."""
        return (TensorSpec(specs[0].shape, specs[0].dtype),)

    def choices(self, facts, specs, outs):
        """Ways to run it on a device with these facts, best first."""
        return [Choice("plain")]

    def offered(self, facts, specs, outs):
        """`choices`, with the one first that was measured to be the fastest on the device, if any was."""
        return tuned.ordered(facts, self, specs, outs, self.choices(facts, specs, outs))

    def cost(self, specs, outs, facts):
        """See `Cost`; by default one pass over all operands."""
        tensors = [s for s in (*specs, *outs) if s is not None]
        return Cost(
            sum(s.values for s in outs),
            sum(s.nbytes(facts.block) for s in tensors),
        )

    def frugal(self, facts, specs, outs):
        """More ways, with less workspace and more time than `choices` have, and the same bits."""
        return []

    def effort(self, specs, outs, facts, choice):
        """What a choice really takes, as `Cost`: wasted and extra operations, and bytes that are read again, included.

        A multiply-add in a register tile without any loads is two operations; planners compare times with it.
        """
        return self.cost(specs, outs, facts)

    def strip(self, rows, heights, axis=0):
        """What computes rows (begin, end) of the output, where `strips` allows it.

        Args:
            heights: {name: rows of the whole input}, of the inputs that are no weights.
            axis: 1: of columns, where `bands` allows it.

        Returns:
            A layer, and by name the rows (begin, end) of each input that it must be given.
        """
        return self, dict.fromkeys(heights, rows)

    def gradient(self, emit, values, dy, wanted):
        """Emits the layers that compute the gradients of the inputs named in `wanted`.

        Args:
            emit: emit(layer, *inputs) adds a layer and returns its outputs (a value, or a tuple).
            values: {name: value} of inputs and outputs; only those in `keeps` may be passed on.
            dy: {output name: value of its gradient}; absent where nothing depends on the output.

        Returns:
            {input name: value of its gradient}
        """
        raise NotImplementedError(f"{type(self).__name__} has no gradient")

    def record(self, rec, ins, outs, work, choice):
        """Appends the launches of one run to `rec`, with tensors for inputs, outputs and workspace."""
        raise NotImplementedError

    def with_(self, **attributes):
        """A copy with other attributes."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, **attributes)
        return twin

    def with_activation(self, activation, slope):
        """A copy that applies an activation in its epilogue."""
        assert self.activates and self.activation == "none"
        return self.with_(activation=activation, slope=slope)

    def activation_args(self):
        """The kernel arguments of the epilogue: code and slope."""
        return ACTIVATIONS.index(self.activation), float(self.slope)

    @property
    def operator(self):
        """What tables call it."""
        return type(self).__name__

    @property
    def differentiable(self):
        """Whether a gradient exists."""
        return type(self).gradient is not Layer.gradient


class Residual(Layer):
    """Base of convolutions: operands x, w, b and, with `adds`, one of y's shape, added in front of the activation.

    Class attributes:
        pool: "max" or "avg": y is pooled, behind the activation, over 2x2 windows side by side; what is in front of the
            pooling is never stored, and what no window reads not computed. "none" where it is not.
        places: a second output holds the place of each maximum, as that of `Pool2d`.
    """

    adds = False
    pool = "none"
    places = False

    @property
    def operator(self):
        return f"{type(self).__name__}{'' if self.pool == 'none' else ', pooled'}"

    @property
    def outputs(self):
        return ("y", "argmax") if self.places else ("y",)

    @property
    def inputs(self):
        return ("x", "w", "b", "residual") if self.adds else ("x", "w", "b")

    @property
    def inplace(self):
        # Whoever writes an element of y has read that of the residual before.
        return {"y": ("residual",)} if self.adds else {}

    def pooled(self, full):
        """Specs of the outputs where the convolution alone has this one."""
        if self.pool == "none":
            return (full,)
        n, k, p, q = full.shape
        y = TensorSpec((n, k, p // 2, q // 2), full.dtype)
        return (y, TensorSpec(y.shape, "uint8")) if self.places else (y,)

    def unpooled(self, y):
        """The spec of what is computed in front of the pooling."""
        if self.pool == "none":
            return y
        n, k, p, q = y.shape
        return TensorSpec((n, k, 2 * p, 2 * q), y.dtype)

    def unpooled_rows(self, rows):
        """The rows, or columns, (begin, end) of the convolution of which those of y are pooled."""
        return rows if self.pool == "none" else (2 * rows[0], 2 * rows[1])

    def pool_defines(self):
        """Build definitions of kernels that pool (cl/pooling.h)."""
        return {} if self.pool == "none" else {"KIND": POOLS.index(self.pool), "ARGMAX": int(self.places)}


def looped(times, inside=0):
    """At most so many loop iterations are a loop and the loops in it, with so many iterations `inside` each time.

    The check that ends a loop counts; compilers make loops of one iteration from a `continue`, and of two from setting
    an array to zero. Loops that REPEAT of common.h writes out do not count, those with UNROLL do: not all heed it.
    """
    return times * ((2 if inside else 1) + inside) + 2


def same_shape(who, specs):
    """Raises ShapeError unless all specs have one shape; returns the spec of it in channel blocks."""
    for spec in specs[1:]:
        if spec.shape != specs[0].shape:
            raise ShapeError(f"{who}: shapes differ: {' and '.join(str(s) for s in specs)}; they must be equal")
    return TensorSpec(specs[0].shape, specs[0].dtype)


def piece_args(x, block, defines):
    """Kernel arguments of an input given whole or in pieces (common.h: PIECES_OF); sets PIECES."""
    if not isinstance(x, tuple):
        return [x, blocks(x.spec.shape[1], block), plane_of(x)]
    defines["PIECES"] = 4
    args, end = [], 0
    for i in range(4):
        piece = x[min(i, len(x) - 1)]
        if i < len(x):
            end += blocks(piece.spec.shape[1], block)
        args += [piece, end, plane_of(piece)]
    return args


def weight_defines(w):
    """Build definitions of kernels that read weights w (common.h: LOAD_W)."""
    return {"W_HALF": 1} if w.spec is not None and w.spec.dtype == "float16" else {}


def plane_of(tensor):
    """Pixels from one channel block of a tensor to the next."""
    return tensor.plane or tensor.spec.shape[2] * tensor.spec.shape[3]


def output_args(y, block):
    """Kernel arguments of an output (common.h: OUTPUT)."""
    return [y, plane_of(y), y.depth or blocks(y.spec.shape[1], block)]


def residual_args(tensors):
    """Kernel arguments of what is added to an output: one tensor, or none."""
    return [tensors[0], plane_of(tensors[0])] if tensors else [None, 0]
