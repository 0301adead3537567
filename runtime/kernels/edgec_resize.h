/* Bilinear interpolation, the same for every type of element: positions in 1/1024 pixels, as TFLite's
 * integer kernels.
 *
 * The including file says what `edgec_element` is, and `edgec_sum`, which holds 2^20 of it.
 */
#ifndef EDGEC_RESIZE_H
#define EDGEC_RESIZE_H

#include "edgec_kernels.h"
#include "edgec_window.h"

static inline int32_t edgec_between(int32_t below, int32_t above, int32_t share) {
    return below * (1024 - share) + above * share;
}

static EDGEC_INLINE void edgec_resize_bilinear(
    const edgec_resize_bilinear_s8_params *p, const edgec_element *in, edgec_element *out) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            const edgec_position row = edgec_position_of(p->start_h + y * p->scale_h, p->in_h);
            const edgec_element *top = in + row.lower * p->in_w * p->channels;
            const edgec_element *bottom = in + row.upper * p->in_w * p->channels;
            for (int32_t x = 0; x < p->out_w; ++x) {
                const edgec_position column =
                    edgec_position_of(p->start_w + x * p->scale_w, p->in_w);
                const int32_t left = column.lower * p->channels;
                const int32_t right = column.upper * p->channels;
                for (int32_t c = 0; c < p->channels; ++c) {
                    const edgec_sum over =
                        edgec_between(top[left + c], top[right + c], column.above);
                    const edgec_sum under =
                        edgec_between(bottom[left + c], bottom[right + c], column.above);
                    const edgec_sum sum = over * (1024 - row.above) + under * row.above;
                    *out++ = (edgec_element)((sum + (sum > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20));
                }
            }
        }
        in += p->in_h * p->in_w * p->channels;
    }
}

#endif
