"""Optimizers: updates of weights in place, with their settings read from a small buffer.

The buffer "hyper" is plain float32 (HYPERS,), changed by the host between runs: nothing is recorded anew.
"""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec

from clconv._core.layer import Cost, Layer, looped

# Indices in the buffer "hyper"; the same in cl/optimizer.cl.
HYPERS = 16
RATE = 0
WEIGHT_DECAY = 1
MOMENTUM = 2  # decay of rmsprop, beta1 of adam
BETA2 = 3
EPSILON = 4
CORRECTION1 = 5  # 1 - beta1^t, t counted from 1; beta1 as float32 has it, for the kernel knows no other
CORRECTION2 = 6  # 1 - beta2^t
ENABLED = 7  # 0: updates change nothing
FIRST_PART = 8  # 0: gradients are added to those of the parts of the batch before
LAST_PART = 9  # 0: gradients are only gathered (but for momentum: cl/optimizer.h, Parts)

# What each rule carries from step to step, each shaped like the weight.
RULES = {
    "sgd": (),
    "momentum": ("velocity",),
    "nesterov": ("velocity",),
    "adagrad": ("squares",),
    "rmsprop": ("squares",),
    "adam": ("mean", "squares"),
}
FLOPS_PER_VALUE = {"sgd": 4, "momentum": 6, "nesterov": 8, "adagrad": 9, "rmsprop": 10, "adam": 15}

CPU_RUN = 64  # channel blocks per work-item where items cost more than a few instructions


class Step:
    """How weights change: `rule` (a key of RULES); `summed`: gradients of several parts of a batch are gathered first.

    Momentum gathers them in its velocity. The other rules have one more state for it, the last one.
    """

    def __init__(self, rule, summed=False):
        self.rule = rule
        self.summed = summed and rule != "momentum"

    @property
    def inputs(self):
        """Names of the operands: w and its states, of one spec, any layout, padding zero and kept so; hyper; ok,
        plain (1,), from `Finite`: where it is 0, or hyper[ENABLED] is, nothing changes."""
        return ("w", *self.states, "hyper", "ok")

    @property
    def states(self):
        """Names of the states, each shaped like the weight."""
        return (*(f"state{i}" for i in range(len(RULES[self.rule]))), *(("sum",) if self.summed else ()))

    def check(self, specs, gradient):
        """Raises ShapeError unless the specs of `inputs` fit each other and that of the gradient."""
        for name, spec in zip(("g", *self.states), (gradient, *specs[1:-2])):
            if spec != specs[0]:
                raise ShapeError(
                    f"{self.rule}: {name} {spec} ({spec.layout}) does not fit the weight {specs[0]} ({specs[0].layout})"
                )
        if specs[-2].shape != (HYPERS,) or specs[-1].shape != (1,):
            raise ShapeError(f"{self.rule}: hyper {specs[-2]} and ok {specs[-1]} must hold {HYPERS} values and 1")

    def args(self, tensors):
        """Kernel arguments, STEPPED_TENSORS of cl/optimizer.h, from the tensors of `inputs`."""
        w, *states, hyper, ok = tensors
        gathered = states.pop() if self.summed else None
        return [w, *states, *[None] * (2 - len(states)), gathered, hyper, ok]

    @property
    def defines(self):
        """Build definitions of a kernel that makes the step."""
        return {"RULE": list(RULES).index(self.rule), "SUMMED": int(self.summed)}


class Update(Layer):
    """One step on weights from a gradient g in memory: w and its states are overwritten where they are."""

    outputs = ()

    def __init__(self, step):
        self.step = step
        self.inputs = ("g", *step.inputs)
        self.updates = ("w", *step.states)
        layouts = ("block", "plain", "filter", "local")
        self.accepts = {**dict.fromkeys(("g", *self.updates), layouts), "hyper": ("plain",), "ok": ("plain",)}

    def infer(self, specs):
        self.step.check(specs[1:], specs[0])
        return ()

    def cost(self, specs, outs, facts):
        # Everything is read and all but the gradient written.
        passes = 3 + 2 * len(self.step.states)
        return Cost(FLOPS_PER_VALUE[self.step.rule] * specs[0].values, passes * specs[0].nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        g = ins[0]
        vectors, rest = divmod(g.spec.elements(rec.facts.block), rec.facts.block)
        run = CPU_RUN if rec.facts.kernels == "cpu" else 1
        items = -(-(vectors + (rest > 0)) // run)
        args = [g, *self.step.args(ins[1:]), items, run, vectors, rest]
        rec.launch("optimizer.cl", "update", (items,), args, defines=self.step.defines)


class WeightGradient(Layer):
    """Base of the layers that compute dw (of spec `spec`) from x and dy: they can make the step on w themselves.

    Then no gradient is stored: see `stepping`.
    """

    reads = ("x", "dy")
    step = None

    @property
    def inputs(self):
        return self.reads if self.step is None else (*self.reads, *self.step.inputs)

    @property
    def outputs(self):
        return ("dw",) if self.step is None else ()

    @property
    def updates(self):
        return () if self.step is None else ("w", *self.step.states)

    def infer(self, specs):
        if self.step is None:
            return (self.spec,)
        self.step.check(specs[len(self.reads):], self.spec)
        return ()

    def stepping(self, step):
        """The layer that makes `step` on w, with the operands of the step behind its own, instead of giving dw."""
        return self.with_(step=step)

    def result(self, ins, outs):
        """Kernel arguments and build definitions of what is made of the sums: GRADIENT of cl/optimizer.h."""
        if self.step is None:
            return [outs[0]], {}
        return self.step.args(ins[len(self.reads):]), {"UPDATE": 1, **self.step.defines}


class Finite(Layer):
    """ok = 1 where every value of the loss (N,) is finite, else 0; plain float32 (1,)."""

    inputs = ("loss",)
    outputs = ("ok",)
    accepts = {"loss": ("plain",)}

    def infer(self, specs):
        return (TensorSpec((1,), layout="plain"),)

    def record(self, rec, ins, outs, work, choice):
        count = ins[0].spec.values
        rec.launch("optimizer.cl", "finite", (1,), [ins[0], outs[0], count], iterations=looped(count))
