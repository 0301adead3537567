/* Convolutions on int8, portable. */
#include <stddef.h>

#include "edgec_fixed_point.h"
#include "edgec_kernels.h"

static int8_t finish(const edgec_conv_s8_params *p, int32_t sum, int32_t channel) {
    const int32_t scaled =
        edgec_scale(sum, p->scales.mantissa[channel], p->scales.exponent[channel]);
    return (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
}

void edgec_conv_s8(const edgec_conv_s8_params *p, const int8_t *in, int8_t *out) {
    const int32_t depth = p->in_c / p->groups;
    const int32_t per_group = p->out_c / p->groups;
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            for (int32_t x = 0; x < p->out_w; ++x) {
                const int32_t top = y * p->stride_h - p->pad_h;
                const int32_t left = x * p->stride_w - p->pad_w;
                for (int32_t o = 0; o < p->out_c; ++o) {
                    const int8_t *weights = p->weights + (size_t)o * (size_t)(p->k_h * p->k_w * depth);
                    const int32_t first = o / per_group * depth;
                    int32_t sum = p->bias != NULL ? p->bias[o] : 0;
                    for (int32_t i = 0; i < p->k_h; ++i) {
                        const int32_t row = top + i * p->dilation_h;
                        if (row < 0 || row >= p->in_h) {
                            continue;
                        }
                        for (int32_t j = 0; j < p->k_w; ++j) {
                            const int32_t column = left + j * p->dilation_w;
                            if (column < 0 || column >= p->in_w) {
                                continue;
                            }
                            const int8_t *pixel = in + (row * p->in_w + column) * p->in_c + first;
                            const int8_t *taps = weights + (i * p->k_w + j) * depth;
                            for (int32_t c = 0; c < depth; ++c) {
                                sum += (pixel[c] - p->in_zero) * taps[c];
                            }
                        }
                    }
                    *out++ = finish(p, sum, o);
                }
            }
        }
        in += p->in_h * p->in_w * p->in_c;
    }
}

void edgec_conv_1x1_s8(const edgec_conv_s8_params *p, const int8_t *in, int8_t *out) {
    const int32_t pixels = p->batch * p->out_h * p->out_w;
    for (int32_t i = 0; i < pixels; ++i) {
        const int8_t *weights = p->weights;
        for (int32_t o = 0; o < p->out_c; ++o) {
            int32_t sum = p->bias != NULL ? p->bias[o] : 0;
            for (int32_t c = 0; c < p->in_c; ++c) {
                sum += (in[c] - p->in_zero) * weights[c];
            }
            weights += p->in_c;
            *out++ = finish(p, sum, o);
        }
        in += p->in_c;
    }
}

void edgec_depthwise_s8(const edgec_conv_s8_params *p, const int8_t *in, int8_t *out) {
    const int32_t per = p->out_c / p->in_c;
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            for (int32_t x = 0; x < p->out_w; ++x) {
                const int32_t top = y * p->stride_h - p->pad_h;
                const int32_t left = x * p->stride_w - p->pad_w;
                for (int32_t c = 0; c < p->in_c; ++c) {
                    for (int32_t m = 0; m < per; ++m) {
                        const int32_t o = c * per + m;
                        int32_t sum = p->bias != NULL ? p->bias[o] : 0;
                        for (int32_t i = 0; i < p->k_h; ++i) {
                            const int32_t row = top + i * p->dilation_h;
                            if (row < 0 || row >= p->in_h) {
                                continue;
                            }
                            for (int32_t j = 0; j < p->k_w; ++j) {
                                const int32_t column = left + j * p->dilation_w;
                                if (column < 0 || column >= p->in_w) {
                                    continue;
                                }
                                sum += (in[(row * p->in_w + column) * p->in_c + c] - p->in_zero) *
                                       p->weights[(i * p->k_w + j) * p->out_c + o];
                            }
                        }
                        *out++ = finish(p, sum, o);
                    }
                }
            }
        }
        in += p->in_h * p->in_w * p->in_c;
    }
}
