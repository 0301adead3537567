/* Two convolutions row by row, the same for every type of element.
 *
 * The including file says what `edgec_element` is, what `edgec_expand_depthwise_params` are, and the
 * kernels in EDGEC_CONV, EDGEC_FUNCTION and EDGEC_DEPTHWISE.
 */
#ifndef EDGEC_STREAM_H
#define EDGEC_STREAM_H

#include <string.h>

#include "edgec_fixed_point.h"

/* `padding` is what each byte of a row outside of the image is. */
static EDGEC_INLINE void edgec_stream(
    const edgec_expand_depthwise_params *p, const edgec_element *in, edgec_element *out,
    edgec_element *scratch, int32_t padding) {
    const int32_t rows = p->depthwise.in_h;
    const int32_t wide = p->depthwise.in_w * p->depthwise.in_c;
    const int32_t in_row = p->expand.in_w * p->expand.in_c;
    const int32_t out_row = p->depthwise.out_w * p->depthwise.out_c;
    const size_t bytes = (size_t)wide * sizeof(edgec_element);
    /* rows that a window has in common with the one before it */
    const int32_t common = rows > p->stride_h ? rows - p->stride_h : 0;
    edgec_element *const work = scratch + p->window / (int32_t)sizeof(edgec_element);
    for (int32_t y = 0; y < p->out_h; ++y) {
        const int32_t top = y * p->stride_h - p->pad_h;
        const int32_t kept = y > 0 ? common : 0;
        for (int32_t i = 0; i < kept; ++i) {
            memcpy(scratch + i * wide, scratch + (rows - kept + i) * wide, bytes);
        }
        for (int32_t i = kept; i < rows; ++i) {
            const int32_t row = top + i;
            edgec_element *const to = scratch + i * wide;
            if (row < 0 || row >= p->in_h) {
                memset(to, padding, bytes);
                continue;
            }
            EDGEC_CONV(&p->expand, in + row * in_row, to, work);
            if (p->activation.table != 0) {
                EDGEC_FUNCTION(&p->activation, to, to);
            }
        }
        EDGEC_DEPTHWISE(&p->depthwise, scratch, out, work);
        out += out_row;
    }
}

#endif
