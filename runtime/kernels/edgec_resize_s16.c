/* Images of other sizes, int16: as edgec_resize_s8.c, with sums of 64 bits. */
#include "edgec_kernels_s16.h"
#include "edgec_window.h"

static inline int32_t between(int32_t below, int32_t above, int32_t share) {
    return below * (1024 - share) + above * share;
}

void edgec_resize_bilinear_s16(
    const edgec_resize_bilinear_s8_params *p, const int16_t *in, int16_t *out) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            const edgec_position row = edgec_position_of(p->start_h + y * p->scale_h, p->in_h);
            const int16_t *top = in + row.lower * p->in_w * p->channels;
            const int16_t *bottom = in + row.upper * p->in_w * p->channels;
            for (int32_t x = 0; x < p->out_w; ++x) {
                const edgec_position column =
                    edgec_position_of(p->start_w + x * p->scale_w, p->in_w);
                const int32_t left = column.lower * p->channels;
                const int32_t right = column.upper * p->channels;
                for (int32_t c = 0; c < p->channels; ++c) {
                    const int32_t over = between(top[left + c], top[right + c], column.above);
                    const int32_t under =
                        between(bottom[left + c], bottom[right + c], column.above);
                    const int64_t sum =
                        (int64_t)over * (1024 - row.above) + (int64_t)under * row.above;
                    *out++ = (int16_t)((sum + (sum > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20));
                }
            }
        }
        in += p->in_h * p->in_w * p->channels;
    }
}
