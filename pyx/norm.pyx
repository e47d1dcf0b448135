"""Normalisation by the neighbours' squares (LRN)."""

from clconv.shapes import TensorSpec, blocks

from clconv._core.layer import Choice, Cost, Layer, looped, plane_of


class Response:
    """The constants of an LRN: window, s = k + share * (sum of squares), y = x * s^-beta; across or within maps."""

    def __init__(self, size, share, beta, k, across):
        self.size = size
        self.share = share
        self.beta = beta
        self.k = k
        self.across = across

    def args(self):
        """Kernel arguments: k, share, beta."""
        return [float(self.k), float(self.share), float(self.beta)]

    def choice(self, facts, width, workspace_bytes=0):
        """RUN pixels per work-item: many where items run one after the other, one where they run side by side."""
        run = 1 if facts.work_group > 1 and self.across else min(8, width)
        return Choice("across" if self.across else "within", (("RUN", run), ("SIZE", self.size)), workspace_bytes)

    def cost(self, specs, outs, facts, passes):
        """Costs of so many passes over windows, each summed over channels or over rows and then columns."""
        terms = self.size if self.across else 2 * self.size
        traffic = sum(s.nbytes(facts.block) for s in (*specs, *outs))
        return Cost(passes * outs[0].values * (terms + 6), traffic)

    def launch(self, rec, kernel, tensors, constants, choice):
        """Records a kernel of norm_lrn.cl for tensors of one shape."""
        spec = tensors[0].spec
        n, c, h, w = spec.shape
        tiles = dict(choice.tiles)
        group, rows = rec.facts.work_group, n * blocks(c, rec.facts.block)
        if self.across:
            runs = -(-h * w // tiles["RUN"])
            items, sizes = n * runs, [blocks(c, rec.facts.block), h * w, runs]
        else:
            runs = -(-w // tiles["RUN"])
            items, sizes = rows * h * runs, [h, w, runs]
        rec.launch("norm_lrn.cl", kernel, (items,), [*tensors, items, *sizes, *constants],
                   defines={**tiles, "WG": group}, local_size=(group,),
                   iterations=self._iterations(tiles["RUN"], blocks(c, rec.facts.block), rec.facts.block))

    def _iterations(self, run, count, block):
        """At most so many loop iterations of a work-item, of any of the kernels, with `count` channel blocks."""
        size = self.size
        if not self.across:
            return looped(run + size - 1, looped(size)) + looped(run, looped(size)) + looped(run)
        reach = -(-(size // 2) // block)
        ring = looped(2 * reach + 1)
        # Per block: squares move on, terms move on and are made of sums, and are summed themselves.
        per_block = looped(run, ring) + looped(run, ring + looped(size)) + looped(run, looped(size))
        return looped(run, ring) + looped(count + 2 * reach, per_block)


class LocalResponse(Layer):
    """y = x * (k + share * sum of x^2 over a window)^-beta."""

    keeps = ("x",)

    def __init__(self, response):
        self.response = response
        # Across channels, a work-item reads all that it needs before it overwrites it.
        self.inplace = {"y": ("x",)} if response.across else {}
        self.strips = self.bands = int(response.across)

    def infer(self, specs):
        return (TensorSpec(specs[0].shape),)

    def choices(self, facts, specs, outs):
        return [self.response.choice(facts, specs[0].shape[3])]

    def cost(self, specs, outs, facts):
        return self.response.cost(specs, outs, facts, 1)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(LocalResponseGrad(self.response), values["x"], dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        x, y = ins[0], outs[0]
        if self.response.across:
            tensors = [x, plane_of(x), y, plane_of(y)]
            self.response.launch(rec, "lrn_across", tensors, self.response.args(), choice)
        else:
            self.response.launch(rec, "lrn_within", [x, y], self.response.args(), choice)


class LocalResponseGrad(Layer):
    """dx of `LocalResponse`; s is computed again from x. Within maps a workspace of the size of x holds its terms."""

    inputs = ("x", "dy")
    outputs = ("dx",)
    inplace = {"dx": ("dy",)}

    def __init__(self, response):
        self.response = response

    def infer(self, specs):
        return (TensorSpec(specs[0].shape),)

    def choices(self, facts, specs, outs):
        workspace = 0 if self.response.across else outs[0].nbytes(facts.block)
        return [self.response.choice(facts, specs[0].shape[3], workspace)]

    def cost(self, specs, outs, facts):
        return self.response.cost(specs, outs, facts, 2)

    def record(self, rec, ins, outs, work, choice):
        response = self.response
        x, dy = ins
        if response.across:
            response.launch(rec, "lrn_across_grad", [x, dy, outs[0]], response.args(), choice)
            return
        response.launch(rec, "lrn_within_terms", [x, dy, outs[0], work], response.args(), choice)
        response.launch(rec, "lrn_within_grad", [x, work, outs[0]], response.args()[1:], choice)
