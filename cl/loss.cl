// loss.cl -- the losses' values for each image and the gradient of their mean over the images.
//
//   softmax_loss   loss[n] = log(sum over k of exp(s[n,k])) - s[n,label]; dscores = (softmax(s) - (k == label)) * share
//   hinge_loss     loss[n] = sum over k != label of max(0, s[n,k] - s[n,label] + 1)
//   squared_rows   ds = factor (s - t), and a sum of (s - t)^2 for each row of a channel block
//   squared_loss   loss[n] = sum of the rows' sums / values per image
//
// Settings  share: of an image in the loss of the batch, 1 / N where it is not given in parts
// Tensors   scores, dscores [N][K/B][B] (squared: [N][C/B][H][W][B]); labels [N]; targets [N][C][H][W];
//           loss [N]; correct [N]: 1 where the label's score is the largest, and the first of equal ones
// Launch    1-D, one work-item per image (squared_rows: per row of a channel block), any work-group size
// Aliasing  dscores may be scores
// Order     each lane sums over the blocks, then the lanes are added by halves.
// A label that is no class makes the loss NaN; nothing is read or written outside of the scores.

#include "common.h"

// Which lanes of scores `s`, classes `k`, keep the label from being the answer: larger, or equal and before it.
static inline VI beats(VF s, VI k, real of_label, int label)
{
    return (s > (VF)(of_label)) | ((s == (VF)(of_label)) & (k < (VI)(label)));
}

__kernel void softmax_loss(TENSOR(const, scores), TENSOR_OF(const, int, labels), TENSOR(, loss),
                           TENSOR_OF(, int, correct), TENSOR(, dscores), int items, int classes, real share)
{
    const int n = get_global_id(0);
    if (n >= items)
        return;
    const int blocks = BLOCKS(classes), label = AT(labels)[n];
    __global const VF *s = BLOCKS_AT(const, scores) + (size_t)n * blocks;
    __global VF *ds = BLOCKS_AT(, dscores) + (size_t)n * blocks;
    const real of_label = label >= 0 && label < classes ? ((__global const real *)s)[label] : NAN;

    VF most = (VF)(-INFINITY);
    VI beaten = (VI)(of_label == of_label ? 0 : -1);
    for (int b = 0; b < blocks; b++) {
        const VI k = b * B + LANES;
        const VI inside = k < (VI)(classes);
        most = select(most, fmax(most, s[b]), inside);
        beaten |= inside & beats(s[b], k, of_label, label);
    }
    const real top = max_lanes(most);

    VF sums = (VF)(0);
    for (int b = 0; b < blocks; b++) {
        const VF power = keep_channels(exp(s[b] - (VF)(top)), b, classes);
        sums += power;
        ds[b] = power;
    }
    const real total = sum_lanes(sums);

    for (int b = 0; b < blocks; b++) {
        const VF hit = select((VF)(0), (VF)(1), b * B + LANES == (VI)(label));
        ds[b] = (ds[b] / (VF)(total) - hit) * (VF)(share);
    }
    AT(loss)[n] = log(total) - (of_label - top);
    AT(correct)[n] = !any_lane(beaten);
}

__kernel void hinge_loss(TENSOR(const, scores), TENSOR_OF(const, int, labels), TENSOR(, loss),
                         TENSOR_OF(, int, correct), TENSOR(, dscores), int items, int classes, real share)
{
    const int n = get_global_id(0);
    if (n >= items)
        return;
    const int blocks = BLOCKS(classes), label = AT(labels)[n];
    const bool valid = label >= 0 && label < classes;
    __global const VF *s = BLOCKS_AT(const, scores) + (size_t)n * blocks;
    __global VF *ds = BLOCKS_AT(, dscores) + (size_t)n * blocks;
    const real of_label = valid ? ((__global const real *)s)[label] : NAN;

    VF sums = (VF)(0), wrong = (VF)(0);
    VI beaten = (VI)(of_label == of_label ? 0 : -1);
    for (int b = 0; b < blocks; b++) {
        const VI k = b * B + LANES;
        const VI inside = k < (VI)(classes), others = inside & (k != (VI)(label));
        const VF margin = s[b] - (VF)(of_label) + (VF)(1);
        beaten |= inside & beats(s[b], k, of_label, label);
        sums += select((VF)(0), margin, others & ~(margin <= (VF)(0))); // NaN counts
        const VF counted = select((VF)(0), (VF)(1), others & (margin > (VF)(0)));
        wrong += counted;
        ds[b] = counted * (VF)(share);
    }
    if (valid)
        ((__global real *)ds)[label] = -sum_lanes(wrong) * share;
    AT(loss)[n] = valid ? sum_lanes(sums) : NAN;
    AT(correct)[n] = !any_lane(beaten);
}

__kernel void squared_rows(TENSOR(const, scores), TENSOR(const, targets), TENSOR(, dscores), TENSOR(, sums),
                           int items, int channels, int height, int width, real factor)
{
    const int item = get_global_id(0); // [n][channel block][row]
    if (item >= items)
        return;
    const int blocks = BLOCKS(channels);
    const int row = item % height, block = item / height % blocks, n = item / height / blocks;
    const int filled = min(B, channels - block * B);
    const size_t plane = (size_t)height * width;
    __global const VF *s = BLOCKS_AT(const, scores) + (size_t)item * width;
    __global VF *ds = BLOCKS_AT(, dscores) + (size_t)item * width;
    __global const real *t =
        AT(targets) + ((size_t)n * channels + block * B) * plane + (size_t)row * width;
    VF total = (VF)(0);
    for (int w = 0; w < width; w++) {
        Lanes target = {.vector = (VF)(0)};
        for (int lane = 0; lane < filled; lane++)
            target.lane[lane] = t[lane * plane + w];
        const VF difference = s[w] - target.vector;
        total = fma(difference, difference, total);
        ds[w] = difference * (VF)(factor);
    }
    AT(sums)[item] = sum_lanes(total);
}

__kernel void squared_loss(TENSOR(const, sums), TENSOR(, loss), TENSOR_OF(, int, correct), int items, int rows,
                           real values)
{
    const int n = get_global_id(0);
    if (n >= items)
        return;
    real total = 0;
    for (int i = 0; i < rows; i++)
        total += AT(sums)[(size_t)n * rows + i];
    AT(loss)[n] = total / values;
    AT(correct)[n] = 0;
}
