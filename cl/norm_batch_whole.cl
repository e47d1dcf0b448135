// norm_batch_whole.cl -- batch normalisation in training, a channel block after the other: what was read for the sums
//                        is still near when it is normalised, and there is one launch.
//
//   bn_train        as bn_parts, bn_statistics and bn_apply of norm_batch.cl one after the other
//   bn_grad         as bn_grad_parts, bn_grad_total and bn_grad_x
//
// Tensors   as there; parts hold all chunks
// Launch    a work-item for each channel block
// Order     sums as there, with the same bits; images backwards when they are normalised: those read last are nearest
// Aliasing  y may be x or the residual; dx may be dy or x

#include "norm_batch.h"

KERNEL void bn_train(TENSOR(const, x), TENSOR(const, weight), TENSOR(const, bias), TENSOR(const, residual),
                     TENSOR(, parts), TENSOR(, mean), TENSOR(, inverse), TENSOR(, running_mean),
                     TENSOR(, running_var), TENSOR(, y), int blocks, int channels, int plane, int chunks, int total,
                     int per_chunk, float eps, float kept, float share, int activation, float slope)
{
    const int cb = get_global_id(0);
    __global VF *part = BLOCKS_AT(, parts) + (size_t)cb * 2;
    for (int chunk = 0; chunk < chunks; chunk++)
        chunk_moments(BLOCKS_AT(const, x), cb, blocks, plane, chunk * per_chunk, min((chunk + 1) * per_chunk, total),
                      part + (size_t)chunk * blocks * 2);
    VF average, m2;
    merged_moments(part, blocks, chunks, total, per_chunk, &average, &m2);
    const VF spread =
        put_statistics(average, m2, cb, channels, total, eps, kept, share, BLOCKS_AT(, mean), BLOCKS_AT(, inverse),
                       BLOCKS_AT(, running_mean), BLOCKS_AT(, running_var));
    const VF scale = BLOCKS_AT(const, weight)[cb] * spread, shift = BLOCKS_AT(const, bias)[cb];
    for (int n = total / plane - 1; n >= 0; n--) {
        const size_t start = ((size_t)n * blocks + cb) * plane;
        normalise(BLOCKS_AT(const, x) + start, residual_buffer ? BLOCKS_AT(const, residual) + start : 0,
                  BLOCKS_AT(, y) + start, plane, average, scale, shift, activation, slope, cb, channels);
    }
}

KERNEL void bn_grad(TENSOR(const, x), TENSOR(const, dy), TENSOR(const, weight), TENSOR(const, bias),
                    TENSOR(const, mean), TENSOR(const, inverse), TENSOR(, parts), TENSOR(, dx), TENSOR(, dweight),
                    TENSOR(, dbias), int blocks, int plane, int chunks, int total, int per_chunk, float slope)
{
    const int cb = get_global_id(0);
    const VF inverse = BLOCKS_AT(const, inverse)[cb], middle = BLOCKS_AT(const, mean)[cb];
    const VF scale = BLOCKS_AT(const, weight)[cb] * inverse, offset = BLOCKS_AT(const, bias)[cb];
    __global VF *part = BLOCKS_AT(, parts) + (size_t)cb * 2;
    for (int chunk = 0; chunk < chunks; chunk++)
        chunk_sums(BLOCKS_AT(const, x), BLOCKS_AT(const, dy), cb, blocks, plane, chunk * per_chunk,
                   min((chunk + 1) * per_chunk, total), middle, scale, offset, slope,
                   part + (size_t)chunk * blocks * 2);
    VF sum, tilt;
    merged_sums(part, blocks, chunks, &sum, &tilt);
    tilt *= inverse;
    BLOCKS_AT(, dbias)[cb] = sum;
    BLOCKS_AT(, dweight)[cb] = tilt;
    const VF over = (VF)((float)total);
    for (int n = total / plane - 1; n >= 0; n--) {
        const size_t start = ((size_t)n * blocks + cb) * plane;
        put_gradient(BLOCKS_AT(const, x) + start, BLOCKS_AT(const, dy) + start, BLOCKS_AT(, dx) + start, plane, middle,
                     scale, offset, sum / over, tilt / over * inverse, slope);
    }
}
