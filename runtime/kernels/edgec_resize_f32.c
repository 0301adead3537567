/* Images of other sizes in single precision. */
#include "edgec_kernels_f32.h"

typedef struct {
    int32_t lower, upper;
    float above; /* share of the upper neighbour */
} position;

static position place(float at, int32_t size) {
    position found;
    const float inside = at < 0.0f ? 0.0f : at;
    found.lower = (int32_t)inside;
    found.lower = found.lower < size - 1 ? found.lower : size - 1;
    found.upper = found.lower + 1 < size ? found.lower + 1 : found.lower;
    found.above = inside - (float)found.lower;
    return found;
}

void edgec_resize_bilinear_f32(
    const edgec_resize_bilinear_f32_params *p, const float *in, float *out) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            const position row = place(p->start_h + p->scale_h * (float)y, p->in_h);
            const float *top = in + row.lower * p->in_w * p->channels;
            const float *bottom = in + row.upper * p->in_w * p->channels;
            for (int32_t x = 0; x < p->out_w; ++x) {
                const position column = place(p->start_w + p->scale_w * (float)x, p->in_w);
                const int32_t left = column.lower * p->channels;
                const int32_t right = column.upper * p->channels;
                for (int32_t c = 0; c < p->channels; ++c) {
                    const float over =
                        top[left + c] * (1.0f - column.above) + top[right + c] * column.above;
                    const float under = bottom[left + c] * (1.0f - column.above) +
                                        bottom[right + c] * column.above;
                    *out++ = over * (1.0f - row.above) + under * row.above;
                }
            }
        }
        in += p->in_h * p->in_w * p->channels;
    }
}
