/* Two convolutions row by row, on int8. */
#include <string.h>

#include "edgec_kernels.h"

void edgec_expand_depthwise_s8(
    const edgec_expand_depthwise_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch) {
    const int32_t rows = p->depthwise.in_h;
    const int32_t wide = p->depthwise.in_w * p->depthwise.in_c;
    const int32_t in_row = p->expand.in_w * p->expand.in_c;
    const int32_t out_row = p->depthwise.out_w * p->depthwise.out_c;
    /* rows that a window has in common with the one before it */
    const int32_t common = rows > p->stride_h ? rows - p->stride_h : 0;
    int8_t *const work = scratch + p->window;
    for (int32_t y = 0; y < p->out_h; ++y) {
        const int32_t top = y * p->stride_h - p->pad_h;
        const int32_t kept = y > 0 ? common : 0;
        for (int32_t i = 0; i < kept; ++i) {
            memcpy(scratch + i * wide, scratch + (rows - kept + i) * wide, (size_t)wide);
        }
        for (int32_t i = kept; i < rows; ++i) {
            const int32_t row = top + i;
            int8_t *const to = scratch + i * wide;
            if (row < 0 || row >= p->in_h) {
                memset(to, p->depthwise.in_zero, (size_t)wide);
                continue;
            }
            edgec_conv_s8(&p->expand, in + row * in_row, to, work);
            if (p->activation.table != 0) {
                edgec_lookup_s8(&p->activation, to, to);
            }
        }
        edgec_depthwise_s8(&p->depthwise, scratch, out, work);
        out += out_row;
    }
}
