// joined.cl -- the launches of a whole network as one: work-groups of one item share out the items of step after step.
//
//   joined   for each step in turn: all items of the launch that it stands for; a step begins when the one before is
//            done
//
// Tensors   table: for each step where its entry begins; an entry: case, items along three axes, chunks, items per
//           chunk, then the arguments: of a tensor its slab's number and 64-bit offset, of others 32 bits
//           shared: step, chunks done, groups that left, and LINE integers on for each group: its chunks claimed; zeros
// Launch    a group for each processor; any number of them may run at a time. steps 0: nothing, for drivers that
//           compile at the first launch
// Variants  SLABS       parameters: the buffers that tensors lie in; SLAB_LIST: their names
//           STEP_CASES  what runs items item .. end - 1 of a step, by case (clconv/joined.py writes them)
// Order     an item computes what it does in a launch of its own, whoever runs it: the same bits
// Progress  a group waits only for chunks that are claimed, so for groups that run, never for one that has not started.
//           A claim names its step: a group that was held up takes nothing of a later one.
// Needs     OpenCL C 3.0 with acquire and release at the scope of the device

#include "common.h"

#if __OPENCL_C_VERSION__ >= 300

#ifndef SLABS
#define SLABS TENSOR(, slab_1)
#define SLAB_LIST slab_1_buffer
#endif
#ifndef STEP_CASES
#define STEP_CASES
#endif

#define LINE 16 // integers in a cache line
#define LOAD(p) atomic_load_explicit(p, memory_order_acquire, memory_scope_device)
#define STORE(p, value) atomic_store_explicit(p, value, memory_order_release, memory_scope_device)
#define ADD(p, value) atomic_fetch_add_explicit(p, value, memory_order_acq_rel, memory_scope_device)
#define CLAIM(p, expected)                                                                                   \
    atomic_compare_exchange_strong_explicit(p, expected, *(expected) + 1, memory_order_acq_rel, memory_order_acquire, \
                                            memory_scope_device)
#define NONE_OF(step) ((step) << 16) // claims: the step and, in the lower half, how many of its chunks

// Arguments of a step's kernel.
#define SLAB(i) slabs[argument[i]]
#define OFFSET(i) ((ulong)(uint)argument[i] | (ulong)(uint)argument[(i) + 1] << 32)
#define REAL(i) as_float(argument[i])

__kernel __attribute__((vec_type_hint(VF), reqd_work_group_size(1, 1, 1))) void joined(
    SLABS, TENSOR_OF(const, int, table), TENSOR_OF(, int, shared), int steps)
{
    if (steps == 0)
        return;
    __global void *const slabs[] = {0, SLAB_LIST};
    __global atomic_int *state = (__global atomic_int *)AT(shared);
    const int group = get_global_id(0), groups = get_global_size(0);
    for (int step = LOAD(state); step < steps; step = LOAD(state)) {
        __global const int *entry = AT(table) + AT(table)[step];
        const int along_0 = entry[1], along_1 = entry[2], items = along_0 * along_1 * entry[3];
        const int chunks = entry[4], per_chunk = entry[5];
        __global const int *argument = entry + 6;
        int done = 0;
        // The group's own chunks, beside those that it computed in the step before; then what others left.
        for (int turn = 0; turn < groups; turn++) {
            const int owner = (group + turn) % groups, first = (long)chunks * owner / groups;
            const int none = NONE_OF(step), all = none + (int)((long)chunks * (owner + 1) / groups) - first;
            __global atomic_int *claims = state + (owner + 1) * LINE;
            int claimed = LOAD(claims);
            while (claimed >= none && claimed < all) {
                if (!CLAIM(claims, &claimed))
                    continue;
                int item = (first + claimed - none) * per_chunk;
                const int end = min(item + per_chunk, items);
                switch (entry[0]) {
                    STEP_CASES
                }
                done++;
                claimed = LOAD(claims);
            }
        }
        if (done && ADD(state + 1, done) + done == chunks) {
            for (int owner = 0; owner < groups; owner++)
                STORE(state + (owner + 1) * LINE, NONE_OF(step + 1));
            STORE(state + 1, 0);
            STORE(state, step + 1);
        } else {
            while (LOAD(state) == step)
                ;
        }
    }
    // The last to leave makes it ready for the next run.
    if (ADD(state + 2, 1) + 1 == groups) {
        for (int owner = 0; owner < groups; owner++)
            STORE(state + (owner + 1) * LINE, 0);
        STORE(state + 2, 0);
        STORE(state, 0);
    }
}

#endif
