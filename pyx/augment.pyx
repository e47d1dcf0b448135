# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Random crop, flip and colour jitter of uint8 images, fused with the step to float32 NCHW.

Every random number is a pure function of (seed, epoch, index of the image, draw): Philox4x32-10 with the seed
as key (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A batch has the same bits in
any order, in any thread, and in a run that was resumed in mid-epoch. The loops run without the GIL.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from clconv.errors import ArgumentError, ShapeError

# The last counter word separates the users of one seed; dropout counts small layer numbers there.
cdef enum:
    AUGMENT_STREAM = 0x61756700
    STRIP = 256  # pixels whose grey values are held at a time

cdef float IDENTITY[256]
cdef int _value
for _value in range(256):
    IDENTITY[_value] = _value


cdef struct Geometry:
    Py_ssize_t height, width, channels
    Py_ssize_t dy, dx  # source = output + d, after the flip
    bint flip, reflect


cdef struct Jitter:
    float brightness, contrast, saturation  # strengths before the draw, factors after it


cdef inline void philox(uint64_t seed, uint32_t* counter) noexcept nogil:
    """Replaces `counter` (4 words) by the random words of that counter: ten rounds."""
    cdef uint32_t k0 = <uint32_t> seed, k1 = <uint32_t> (seed >> 32)
    cdef uint64_t a, b
    cdef int turn
    for turn in range(10):  # no-cython-lint
        a = <uint64_t> 0xD2511F53u * counter[0]
        b = <uint64_t> 0xCD9E8D57u * counter[2]
        counter[0] = <uint32_t> (b >> 32) ^ counter[1] ^ k0
        counter[2] = <uint32_t> (a >> 32) ^ counter[3] ^ k1
        counter[1] = <uint32_t> b
        counter[3] = <uint32_t> a
        k0 += 0x9E3779B9u
        k1 += 0xBB67AE85u


cdef inline void draw(uint64_t seed, uint32_t epoch, uint64_t index, uint32_t stream,
                      uint32_t* words) noexcept nogil:
    words[0] = <uint32_t> index
    words[1] = <uint32_t> (index >> 32)
    words[2] = epoch
    words[3] = stream
    philox(seed, words)


cdef inline float factor(uint32_t word, float strength) noexcept nogil:
    """Uniform in [max(0, 1 - strength), 1 + strength]."""
    cdef double low = 1.0 - strength if strength < 1 else 0.0
    return <float> (low + (1.0 + strength - low) * (word * (1.0 / 4294967296.0)))


cdef inline Py_ssize_t mirrored(Py_ssize_t position, Py_ssize_t size) noexcept nogil:
    """Reflects at the edge pixel, which is not repeated; the pad is below `size`, so once is enough."""
    if position < 0:
        return -position
    if position >= size:
        return 2 * (size - 1) - position
    return position


cdef inline float edge(const uint8_t* source, const float* table, const Geometry* g,
                       Py_ssize_t x) noexcept nogil:
    """The value at output column `x`, which lies in the padding."""
    cdef Py_ssize_t column = (g.width - 1 - x if g.flip else x) + g.dx
    return table[source[mirrored(column, g.width) * g.channels]] if g.reflect else table[0]


cdef void fill_row(const uint8_t* source, float* out, const float* table, const Geometry* g) noexcept nogil:
    """One output row of one channel; `source` is that channel's first value in the source row."""
    cdef Py_ssize_t x
    cdef Py_ssize_t step = -g.channels if g.flip else g.channels
    cdef Py_ssize_t start = ((g.width - 1 if g.flip else 0) + g.dx) * g.channels
    cdef Py_ssize_t lead = g.dx if g.flip else -g.dx  # columns of padding on the left; negative: on the right
    cdef Py_ssize_t first = max(lead, 0), last = g.width + min(lead, 0)  # |lead| < width
    for x in range(first):
        out[x] = edge(source, table, g, x)
    for x in range(first, last):
        out[x] = table[source[start + x * step]]
    for x in range(last, g.width):
        out[x] = edge(source, table, g, x)


cdef void place(const uint8_t* image, float* out, const float* table, Py_ssize_t table_step,
                const Geometry* g) noexcept nogil:
    """Crop and flip of one HWC image into CHW planes; each value goes through its channel's table."""
    cdef Py_ssize_t c, x, y, row
    cdef const float* values
    cdef float* line
    for c in range(g.channels):
        values = table + c * table_step
        for y in range(g.height):
            line = out + (c * g.height + y) * g.width
            row = y + g.dy
            if g.reflect:
                row = mirrored(row, g.height)
            if 0 <= row < g.height:
                fill_row(image + row * g.width * g.channels + c, line, values, g)
            else:
                for x in range(g.width):
                    line[x] = values[0]


cdef inline float clamp(float value) noexcept nogil:
    value = value if value > 0 else <float> 0
    return value if value < 255 else <float> 255


cdef void grey(const float* out, float* result, Py_ssize_t count, Py_ssize_t plane,
               Py_ssize_t channels) noexcept nogil:
    """Luma of ITU-R BT.601 for three channels, the mean for other numbers, of `count` pixels."""
    cdef Py_ssize_t i, c
    if channels == 3:
        for i in range(count):
            result[i] = (<float> 0.299 * out[i] + <float> 0.587 * out[i + plane]
                         + <float> 0.114 * out[i + 2 * plane])
        return
    for i in range(count):
        result[i] = out[i]
    for c in range(1, channels):
        for i in range(count):
            result[i] += out[i + c * plane]
    for i in range(count):
        result[i] /= channels


cdef inline void blend(float* out, Py_ssize_t count, float share, float other) noexcept nogil:
    """out = clamp(share * out + other)."""
    cdef Py_ssize_t i
    for i in range(count):
        out[i] = clamp(share * out[i] + other)


cdef void colour(float* out, Py_ssize_t plane, Py_ssize_t channels, Jitter f,
                 const float* table) noexcept nogil:
    """Brightness, contrast, saturation in this order on CHW planes of 0..255, then the table's affine map."""
    cdef Py_ssize_t i, c, strip, first, count, strips = (plane + STRIP - 1) // STRIP
    cdef double total = 0
    cdef float gain, offset
    cdef float[STRIP] shade
    blend(out, plane * channels, f.brightness, 0)
    for strip in range(strips):
        first = strip * STRIP
        count = min(<Py_ssize_t> STRIP, plane - first)
        grey(out + first, shade, count, plane, channels)
        for i in range(count):
            total += shade[i]
    blend(out, plane * channels, f.contrast, <float> ((1 - f.contrast) * total / plane))
    if channels > 1:
        for strip in range(strips):
            first = strip * STRIP
            count = min(<Py_ssize_t> STRIP, plane - first)
            grey(out + first, shade, count, plane, channels)
            for c in range(channels):
                for i in range(count):
                    out[c * plane + first + i] = clamp(
                        f.saturation * out[c * plane + first + i] + (1 - f.saturation) * shade[i])
    for c in range(channels):
        # The table is affine in the value; jittered values fall between its entries.
        offset = table[256 * c]
        gain = <float> ((<double> table[256 * c + 255] - offset) / 255)
        for i in range(c * plane, (c + 1) * plane):
            out[i] = gain * out[i] + offset


cdef _check(x_shape, out_shape, table_shape):
    n, h, w, c = x_shape[:4]
    if tuple(out_shape[:4]) != (n, c, h, w):
        raise ShapeError(f"augment: out is {tuple(out_shape[:4])}; "
                         f"images {(n, h, w, c)} (NHWC) need {(n, c, h, w)}")
    if tuple(table_shape[:2]) != (c, 256):
        raise ShapeError(f"augment: the table is {tuple(table_shape[:2])}; {c} channels need {(c, 256)}")


def normalize(const uint8_t[:, :, :, ::1] x, float[:, :, :, ::1] out, const float[:, ::1] table):
    """out[n, c, h, w] = table[c, x[n, h, w, c]]: uint8 NHWC to float32 NCHW in one pass.

    Raises:
        ShapeError: `out` or `table` (channels, 256) does not fit `x`.
    """
    cdef Py_ssize_t n, c, i, plane = x.shape[1] * x.shape[2], channels = x.shape[3]
    cdef const uint8_t* source
    cdef const float* values
    cdef float* target
    _check(x.shape, out.shape, table.shape)
    if x.shape[0] == 0 or plane * channels == 0:
        return
    with nogil:
        for n in range(x.shape[0]):
            for c in range(channels):
                source = &x[n, 0, 0, 0] + c
                target = &out[n, c, 0, 0]
                values = &table[c, 0]
                for i in range(plane):
                    target[i] = values[source[i * channels]]


def augment_normalize(const uint8_t[:, :, :, ::1] x, float[:, :, :, ::1] out, const float[:, ::1] table,
                      const int64_t[::1] indices, uint64_t seed, uint32_t epoch, *, Py_ssize_t crop_pad=0,
                      bint reflect=False, bint flip=False, jitter=(0.0, 0.0, 0.0)):
    """Augments uint8 NHWC images and writes them as float32 NCHW through `table`, in one pass.

    Args:
        x: images (N, H, W, C).
        out: result (N, C, H, W).
        table: float32 (C, 256), affine in the pixel value: what each value becomes.
        indices: int64 (N,), each image's index in its data set; with seed and epoch it decides the draws.
        seed: key of the generator.
        epoch: part of the generator's counter.
        crop_pad: pixels added on every side before the random crop back to H x W.
        reflect: pad by reflection at the edge pixel, instead of with the value 0.
        flip: mirror left to right with probability 1/2.
        jitter: strengths of brightness, contrast, saturation; each factor is uniform in [max(0, 1-s), 1+s].

    Raises:
        ShapeError: arrays that do not fit each other.
        ArgumentError: `crop_pad` is negative or not below the height and width.
    """
    cdef Py_ssize_t n, channels = x.shape[3]
    cdef Geometry g = Geometry(x.shape[1], x.shape[2], channels, 0, 0, False, reflect)
    cdef Jitter strength = Jitter(jitter[0], jitter[1], jitter[2])
    cdef Jitter factors
    cdef bint jittered = strength.brightness > 0 or strength.contrast > 0 or strength.saturation > 0
    cdef uint32_t[4] a
    cdef uint32_t[4] b
    _check(x.shape, out.shape, table.shape)
    if indices.shape[0] != x.shape[0]:
        raise ShapeError(f"augment: {indices.shape[0]} indices for {x.shape[0]} images")
    if crop_pad < 0 or crop_pad >= min(g.height, g.width):
        raise ArgumentError(f"augment: crop_pad={crop_pad} does not fit images of {g.height}x{g.width}; "
                            f"use 0 to {min(g.height, g.width) - 1}")
    if x.shape[0] == 0:
        return
    with nogil:
        for n in range(x.shape[0]):
            draw(seed, epoch, <uint64_t> indices[n], AUGMENT_STREAM, a)
            g.dy = <Py_ssize_t> ((<uint64_t> a[0] * (2 * crop_pad + 1)) >> 32) - crop_pad
            g.dx = <Py_ssize_t> ((<uint64_t> a[1] * (2 * crop_pad + 1)) >> 32) - crop_pad
            g.flip = flip and (a[2] >> 31)
            if not jittered:
                place(&x[n, 0, 0, 0], &out[n, 0, 0, 0], &table[0, 0], 256, &g)
                continue
            draw(seed, epoch, <uint64_t> indices[n], AUGMENT_STREAM + 1, b)
            factors.brightness = factor(b[0], strength.brightness)
            factors.contrast = factor(b[1], strength.contrast)
            factors.saturation = factor(b[2], strength.saturation)
            place(&x[n, 0, 0, 0], &out[n, 0, 0, 0], IDENTITY, 0, &g)
            colour(&out[n, 0, 0, 0], g.height * g.width, channels, factors, &table[0, 0])


def random_keys(uint64_t[::1] out, uint64_t seed, uint32_t epoch, uint32_t stream):
    """Fills `out` with 64 random bits per element, a function of (seed, epoch, stream, position) only."""
    cdef Py_ssize_t i
    cdef uint32_t[4] words
    with nogil:
        for i in range(out.shape[0]):
            draw(seed, epoch, <uint64_t> i, stream, words)
            out[i] = (<uint64_t> words[0] << 32) | words[1]


def philox4x32(uint64_t key, counter):
    """The four 32-bit words of Philox4x32-10 for one key and one counter of four words."""
    cdef uint32_t[4] words
    words[0], words[1], words[2], words[3] = counter
    philox(key, words)
    return words[0], words[1], words[2], words[3]
