/* Convolutions in single precision. */
#include "edgec_kernels_f32.h"

static float clamped(const edgec_conv_f32_params *p, float x) {
    return x < p->low ? p->low : (x > p->high ? p->high : x);
}

void edgec_conv_f32(const edgec_conv_f32_params *p, const float *in, float *out) {
    const int32_t depth = p->in_c / p->groups;
    const int32_t per_group = p->out_c / p->groups;
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            for (int32_t x = 0; x < p->out_w; ++x) {
                const float *weights = p->weights;
                for (int32_t o = 0; o < p->out_c; ++o) {
                    const float *channels = in + (o / per_group) * depth;
                    float sum = p->bias[o];
                    for (int32_t i = 0; i < p->k_h; ++i) {
                        const int32_t row = y * p->stride_h - p->pad_h + i * p->dilation_h;
                        for (int32_t j = 0; j < p->k_w; ++j) {
                            const int32_t column = x * p->stride_w - p->pad_w + j * p->dilation_w;
                            if (row >= 0 && row < p->in_h && column >= 0 && column < p->in_w) {
                                const float *pixel =
                                    channels + (row * p->in_w + column) * p->in_c;
                                for (int32_t c = 0; c < depth; ++c) {
                                    sum += pixel[c] * weights[c];
                                }
                            }
                            weights += depth;
                        }
                    }
                    *out++ = clamped(p, sum);
                }
            }
        }
        in += p->in_h * p->in_w * p->in_c;
    }
}

void edgec_depthwise_f32(const edgec_conv_f32_params *p, const float *in, float *out) {
    const int32_t per = p->out_c / p->in_c;
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            for (int32_t x = 0; x < p->out_w; ++x) {
                for (int32_t o = 0; o < p->out_c; ++o) {
                    float sum = p->bias[o];
                    for (int32_t i = 0; i < p->k_h; ++i) {
                        const int32_t row = y * p->stride_h - p->pad_h + i * p->dilation_h;
                        for (int32_t j = 0; j < p->k_w; ++j) {
                            const int32_t column = x * p->stride_w - p->pad_w + j * p->dilation_w;
                            if (row >= 0 && row < p->in_h && column >= 0 && column < p->in_w) {
                                sum += in[(row * p->in_w + column) * p->in_c + o / per] *
                                       p->weights[(i * p->k_w + j) * p->out_c + o];
                            }
                        }
                    }
                    *out++ = clamped(p, sum);
                }
            }
        }
        in += p->in_h * p->in_w * p->in_c;
    }
}
