/* Depthwise convolutions on int8. */
#include "edgec_fixed_point.h"
#include "edgec_kernels.h"

static int8_t finish(const edgec_conv_s8_params *p, int32_t sum, int32_t channel) {
    const int32_t scaled =
        edgec_scale(sum, p->scales.mantissa[channel], p->scales.exponent[channel]);
    return (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
}

/* A window that lies inside the image, one output per input channel, three taps in a row. */
static void inside_of_three(const edgec_conv_s8_params *p, const int8_t *in, int8_t *out) {
    const int32_t channels = p->in_c;
    const int32_t step = p->dilation_w * channels;
    const int32_t line = p->dilation_h * p->in_w * channels;
    for (int32_t c = 0; c < channels; ++c) {
        const int8_t *pixel = in + c;
        const int8_t *weight = p->weights + c;
        int32_t sum = p->bias[c];
        for (int32_t i = 0; i < p->k_h; ++i) {
            sum += pixel[0] * weight[0];
            sum += pixel[step] * weight[channels];
            sum += pixel[2 * step] * weight[2 * channels];
            pixel += line;
            weight += 3 * channels;
        }
        out[c] = finish(p, sum, c);
    }
}

/* Any window; what lies in the padding counts as the zero point, which the bias takes back. */
static void anywhere(
    const edgec_conv_s8_params *p, const int8_t *in, int32_t top, int32_t left, int8_t *out) {
    const int32_t per = p->out_c / p->in_c;
    for (int32_t o = 0; o < p->out_c; ++o) {
        const int32_t c = o / per;
        int32_t sum = p->bias[o];
        for (int32_t i = 0; i < p->k_h; ++i) {
            const int32_t row = top + i * p->dilation_h;
            for (int32_t j = 0; j < p->k_w; ++j) {
                const int32_t column = left + j * p->dilation_w;
                const int within = row >= 0 && row < p->in_h && column >= 0 && column < p->in_w;
                const int32_t x =
                    within ? in[(row * p->in_w + column) * p->in_c + c] : p->in_zero;
                sum += x * p->weights[(i * p->k_w + j) * p->out_c + o];
            }
        }
        out[o] = finish(p, sum, o);
    }
}

void edgec_depthwise_s8(const edgec_conv_s8_params *p, const int8_t *in, int8_t *out) {
    const int32_t reach_h = (p->k_h - 1) * p->dilation_h;
    const int32_t reach_w = (p->k_w - 1) * p->dilation_w;
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            const int32_t top = y * p->stride_h - p->pad_h;
            for (int32_t x = 0; x < p->out_w; ++x) {
                const int32_t left = x * p->stride_w - p->pad_w;
                const int inside = top >= 0 && left >= 0 && top + reach_h < p->in_h &&
                                   left + reach_w < p->in_w;
                if (inside && p->k_w == 3 && p->out_c == p->in_c) {
                    inside_of_three(p, in + (top * p->in_w + left) * p->in_c, out);
                } else {
                    anywhere(p, in, top, left, out);
                }
                out += p->out_c;
            }
        }
        in += p->in_h * p->in_w * p->in_c;
    }
}
