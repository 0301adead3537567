/* Images of other sizes, int8: positions in 1/1024 pixels, as TFLite's integer kernel. */
#include "edgec_kernels.h"
#include "edgec_window.h"

void edgec_resize_bilinear_s8(
    const edgec_resize_bilinear_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            const edgec_position row = edgec_position_of(p->start_h + y * p->scale_h, p->in_h);
            const int8_t *top = in + row.lower * p->in_w * p->channels;
            const int8_t *bottom = in + row.upper * p->in_w * p->channels;
            for (int32_t x = 0; x < p->out_w; ++x) {
                const edgec_position column =
                    edgec_position_of(p->start_w + x * p->scale_w, p->in_w);
                const int32_t left = column.lower * p->channels;
                const int32_t right = column.upper * p->channels;
                for (int32_t c = 0; c < p->channels; ++c) {
                    const int32_t over =
                        top[left + c] * (1024 - column.above) + top[right + c] * column.above;
                    const int32_t under =
                        bottom[left + c] * (1024 - column.above) + bottom[right + c] * column.above;
                    const int32_t sum = over * (1024 - row.above) + under * row.above;
                    *out++ = (int8_t)((sum + (sum > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20));
                }
            }
        }
        in += p->in_h * p->in_w * p->channels;
    }
}
