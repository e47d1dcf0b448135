"""Fully-connected layers of the GPU class: a matrix-vector product for a few images, else a tiled matrix product."""

from clconv.shapes import blocks

from clconv._core.conv_gemm import Phase, Product, gemm_choices, record_gemm, record_sum
from clconv._core.conv_gemm_grad import GradProduct, grad_choices, record_grad
from clconv._core.layer import Choice, looped, weight_defines

_VECTOR_IMAGES = 8  # up to so many, weights are read once and images kept
_CHANNELS, _LENGTH = 64, 16  # output channels per work-group, values of l per step
_ONE = Phase((1, 1), (1, 1), (0, 0), (1, 1), (1, 1), (0, 1, 1), (0, 1, 1))


def _product(facts, batch, length, k):
    return Product(batch, 1, 1, k, length, 1, 1, facts.block, linear=True, pointwise=True)


def rows_choices(facts, batch, length, k, swapped=False):
    """Ways to compute y[n,k] = sum over l of w[k,l] x[n,l], best first; none where the device is not of the GPU class
    or nothing fits. swapped: w is stored as [length/B][k][B], that of a layer whose input gradient this is.
    """
    if facts.kernels != "gpu":
        return []
    product = _product(facts, batch, length, k)
    found = gemm_choices(facts, product)
    if swapped:
        return [choice for choice in found if dict(choice.tiles)["LOCAL"]] if facts.has_local else []
    images = min(batch, _VECTOR_IMAGES)
    need = 8 * _LENGTH * (_CHANNELS + facts.block + images)
    if facts.has_local and batch <= _VECTOR_IMAGES and need <= facts.local_bytes and _CHANNELS <= facts.max_work_group:
        work = product.chunks * product.part_bytes() if product.chunks > 1 else 0
        settings = (("KT", _CHANNELS), ("NT", images), ("LT", _LENGTH))
        found.insert(0, Choice("vector", settings, work))
    return found


def record_rows(rec, batch, length, k, x, w, b, y, work, choice, activation, swapped=False):
    """Records what `rows_choices` chose."""
    block, product = rec.facts.block, _product(rec.facts, batch, length, k)
    depth = blocks(length, block)
    # The images' rows may lie further apart: what is computed can be some of the outputs of a larger layer.
    place = [y, 1, y.depth or blocks(k, block)]
    out = [b, None, 0, *place]
    if choice.name != "vector":
        defines = {"SWAPPED": int(swapped)}
        record_gemm(rec, product, [_ONE], [x, depth, 1], defines, length, (1, 1), w, out, work, choice, activation)
        return
    tiles, chunks = dict(choice.tiles), product.chunks
    chunk_length = -(-depth // chunks) * block
    args = [
        x, w, None if chunks > 1 else b, *([work, 1, blocks(k, block)] if chunks > 1 else place), batch,
        depth * block, k, chunk_length,
        *((0, 0.0) if chunks > 1 else activation),
    ]
    loads = looped(-(-tiles["LT"] // block)) + looped(-(-tiles["NT"] * tiles["LT"] // tiles["KT"]))
    rec.launch(
        "fc_gemm.cl", "fc_vector",
        (-(-blocks(k, block) * block // tiles["KT"]) * tiles["KT"], chunks, -(-batch // tiles["NT"])), args,
        defines={**tiles, **weight_defines(w)}, local_size=(tiles["KT"], 1, 1),
        iterations=looped(-(-chunk_length // tiles["LT"]) + 1, 2 * loads + looped(tiles["LT"])) + looped(tiles["NT"]),
    )
    if chunks > 1:
        record_sum(rec, product, out, work, chunks, activation)


def rows_grad_choices(facts, batch, length, k):
    """Ways to compute dw[k,l] = sum over n of dy[n,k] x[n,l], best first; none as of `rows_choices`."""
    return grad_choices(facts, GradProduct(batch, k, length, 1, 1, facts.block)) if facts.kernels == "gpu" else []


def record_rows_grad(rec, batch, length, k, x, dy, total, update, work, choice):
    """Records what `rows_grad_choices` chose; returns the chunks that are left to be added up, see `record_grad`."""
    product, window = GradProduct(batch, k, length, 1, 1, rec.facts.block), [1, 1, 1, 1, 0, 0, 1, 1]
    x_args = [x, blocks(length, rec.facts.block), 1]
    one = (1, 1)
    return record_grad(rec, product, x_args, {"LINEAR": 1}, length, one, dy, total, update, work, choice, window, one)
