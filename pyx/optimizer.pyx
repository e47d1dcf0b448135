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


class Update(Layer):
    """One step of `rule` (a key of RULES): w and its states are overwritten where they are.

    Operands: w, g and the states of one spec, any layout, padding zero and kept so; hyper; ok, plain (1,), from
    `Finite`: where it is 0, or hyper[ENABLED] is, nothing changes.
    """

    outputs = ()

    def __init__(self, rule):
        self.rule = rule
        states = tuple(f"state{i}" for i in range(len(RULES[rule])))
        self.inputs = ("w", "g", *states, "hyper", "ok")
        self.updates = ("w", *states)
        layouts = ("block", "plain", "filter", "local")
        self.accepts = {"w": layouts, "g": layouts, **dict.fromkeys(states, layouts)}
        self.accepts.update(hyper=("plain",), ok=("plain",))

    def infer(self, specs):
        for name, spec in zip(self.inputs[1:-2], specs[1:-2]):
            if spec != specs[0]:
                raise ShapeError(
                    f"{self.rule}: {name} {spec} ({spec.layout}) does not fit the weight {specs[0]} ({specs[0].layout})"
                )
        if specs[-2].shape != (HYPERS,) or specs[-1].shape != (1,):
            raise ShapeError(f"{self.rule}: hyper {specs[-2]} and ok {specs[-1]} must hold {HYPERS} values and 1")
        return ()

    def cost(self, specs, outs, facts):
        # Everything is read and all but the gradient written.
        passes = 3 + 2 * len(RULES[self.rule])
        return Cost(FLOPS_PER_VALUE[self.rule] * specs[0].values, passes * specs[0].nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        w, g, *states, hyper, ok = ins
        states += [None] * (2 - len(states))
        vectors, rest = divmod(w.spec.elements(rec.facts.block), rec.facts.block)
        run = CPU_RUN if rec.facts.kind == "cpu" else 1
        items = -(-(vectors + (rest > 0)) // run)
        rec.launch(
            "optimizer.cl", "update", (items,), [w, g, *states, hyper, ok, items, run, vectors, rest],
            defines={"RULE": list(RULES).index(self.rule)},
        )


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
