/* kernels/cpu/moe.h - the rows of a moe op, cut into blocks that fit the expanded rows, and those into experts.
 * Owns:     nothing; the list lies in the workspace.
 * Thread:   that of the ctx.
 */
#ifndef KERNELS_CPU_MOE_H
#define KERNELS_CPU_MOE_H

#include "kernels/cpu/cpu.h"

/* Rows begin..begin+n of an expert. */
struct kn__segment {
    int64_t begin;
    int n, expert;
};

/* Rows `row`.. of all, at most n_max of them, as segments of one expert each (list: n_expert elements). Returns the
 * segments; *n: the rows. offset NULL: one expert that has all n_row_max rows. */
int kn__segments(const int32_t *offset, int n_expert, int64_t n_row_max, int64_t row, int n_max,
                 struct kn__segment *list, int *n);

#endif
