"""Losses: the value for each image, whether it was classified rightly, and the gradient of the mean."""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.layer import Choice, Cost, Layer, looped


class Loss(Layer):
    """Base of the losses.

    Operands: scores (N, K, 1, 1) in blocks, labels plain. Results: loss float32 (N,), whose mean over the images is
    the loss; correct int32 (N,), 1 where the label has the largest score (the first of equal ones); dscores
    in blocks, the gradient of the mean.

    Args:
        images: of the batch whose mean it is, where scores are a part of it; None: they are all of it.
    """

    inputs = ("scores", "labels")
    outputs = ("loss", "correct", "dscores")
    accepts = {"labels": ("plain",)}
    inplace = {"dscores": ("scores",)}
    who = "loss"
    flops_per_value = 1  # an exponential counts as one

    def __init__(self, images=None):
        self.images = images

    def infer(self, specs):
        scores = specs[0]
        self.check(*specs)
        n = scores.shape[0]
        return TensorSpec((n,), layout="plain"), TensorSpec((n,), "int32", "plain"), TensorSpec(scores.shape)

    def check(self, scores, labels):
        """Raises ShapeError unless scores are (N, K, 1, 1) and labels (N,)."""
        n = scores.shape[0]
        if scores.shape[2:] != (1, 1):
            raise ShapeError(
                f"{self.who}: scores {scores} have rows and columns; {n} images x classes would fit, "
                "as FC, Flatten or GlobalAvgPool make them"
            )
        if labels.shape != (n,):
            raise ShapeError(f"{self.who}: labels {labels} do not fit scores {scores}; {n} would fit")

    def cost(self, specs, outs, facts):
        return Cost(
            self.flops_per_value * specs[0].values,
            sum(s.nbytes(facts.block) for s in (*specs, *outs)),
        )


class SoftmaxLoss(Loss):
    """Cross entropy after softmax: log(sum of exp(s)) - s[label]. A label that is no class gives NaN."""

    who = "softmax"
    flops_per_value = 6

    def record(self, rec, ins, outs, work, choice):
        _launch_rows(rec, self, "softmax_loss", ins, outs, 3)


class HingeLoss(Loss):
    """Sum over the wrong classes j of max(0, s[j] - s[label] + 1). A label that is no class gives NaN."""

    who = "svm"
    flops_per_value = 4

    def record(self, rec, ins, outs, work, choice):
        _launch_rows(rec, self, "hinge_loss", ins, outs, 1)


class SquaredLoss(Loss):
    """Mean of (score - target)^2 over an image's values; scores (N, C, H, W), targets plain, `correct` 0."""

    who = "mse"
    flops_per_value = 4

    def check(self, scores, labels):
        if scores.shape != labels.shape:
            raise ShapeError(f"mse: targets {labels} differ from scores {scores}; equal shapes would fit")

    def choices(self, facts, specs, outs):
        n, c, h, _ = specs[0].shape
        return [Choice("plain", (), 4 * n * blocks(c, facts.block) * h)]

    def record(self, rec, ins, outs, work, choice):
        scores, targets = ins
        loss, correct, dscores = outs
        n, c, h, w = scores.spec.shape
        rows = blocks(c, rec.facts.block) * h
        factor = 2.0 / ((self.images or n) * c * h * w)
        args = [scores, targets, dscores, work, n * rows, c, h, w, factor]
        lanes = looped(rec.facts.block)
        rec.launch("loss.cl", "squared_rows", (n * rows,), args, iterations=looped(w, lanes) + lanes)
        rec.launch("loss.cl", "squared_loss", (n,), [work, loss, correct, n, rows, float(c * h * w)],
                   iterations=looped(rows))


def _launch_rows(rec, layer, kernel, ins, outs, passes):
    """Records a kernel of one work-item per image, which passes over the scores so many times."""
    n, classes = ins[0].spec.shape[:2]
    block = rec.facts.block
    rec.launch("loss.cl", kernel, (n,), [*ins, *outs, n, classes, 1.0 / (layer.images or n)],
               iterations=passes * looped(blocks(classes, block)) + 2 * looped(block))
