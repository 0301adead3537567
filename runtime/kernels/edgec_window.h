/* Where pools and interpolations read, whatever the type of an element. */
#ifndef EDGEC_WINDOW_H
#define EDGEC_WINDOW_H

#include "edgec_fixed_point.h"
#include "edgec_kernels.h"

/* Rows and columns of a pool's window that lie inside the image. */
typedef struct {
    int32_t top, bottom, left, right;
} edgec_span;

static inline edgec_span edgec_span_of(const edgec_pool_s8_params *p, int32_t y, int32_t x) {
    edgec_span s;
    s.top = y * p->stride_h - p->pad_h;
    s.left = x * p->stride_w - p->pad_w;
    s.bottom = edgec_clamp(s.top + p->k_h, 0, p->in_h);
    s.right = edgec_clamp(s.left + p->k_w, 0, p->in_w);
    s.top = edgec_clamp(s.top, 0, p->in_h);
    s.left = edgec_clamp(s.left, 0, p->in_w);
    return s;
}

/* Neighbours of a place between pixels; share of the upper one in 1/1024. */
typedef struct {
    int32_t lower, upper, above;
} edgec_position;

/* `at` in 1/1024 pixels of `size`. */
static inline edgec_position edgec_position_of(int32_t at, int32_t size) {
    edgec_position found;
    const int32_t upper = (at + 1023) / 1024;
    found.lower = at < 1024 ? 0 : at / 1024;
    found.upper = upper < size ? upper : size - 1;
    found.above = at - 1024 * found.lower;
    return found;
}

#endif
