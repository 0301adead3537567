/* Depthwise convolutions on int8. */
#include <string.h>

#include "edgec_dot_s8.h"
#include "edgec_fixed_point.h"
#include "edgec_kernels.h"

/* Taps of a window whose addresses are collected before the channels are walked. */
#define MOST_TAPS 49

static inline int8_t finish(
    int32_t sum, int32_t mantissa, int32_t exponent, int32_t zero, int32_t low, int32_t high) {
    return (int8_t)edgec_clamp(edgec_scale(sum, mantissa, exponent) + zero, low, high);
}

/* One pixel, one output per input channel: taps[t] points to the channels of tap t. */
static void one_each(
    const edgec_conv_s8_params *p, const int8_t *const *taps, int32_t count, int8_t *out) {
    /* copies: stores to `out` could change what `p` points to, as far as the compiler knows */
    const int32_t channels = p->in_c;
    const int32_t zero = p->out_zero;
    const int32_t low = p->low;
    const int32_t high = p->high;
    const int32_t *bias = p->bias;
    const int32_t *mantissa = p->scales.mantissa;
    const int8_t *exponent = p->scales.exponent;
    const int8_t *weights = p->weights;
    int32_t c = 0;
#if defined(EDGEC_HELIUM)
    for (; c < channels; c += 4) {
        const mve_pred16_t lanes = vctp32q((uint32_t)(channels - c));
        int32x4_t sum = vldrwq_z_s32(bias + c, lanes);
        const int8_t *weight = weights + c;
        for (int32_t t = 0; t < count; ++t) {
            const int32x4_t x = vldrbq_z_s32(taps[t] + c, lanes);
            sum = vaddq_s32(sum, vmulq_s32(x, vldrbq_z_s32(weight, lanes)));
            weight += channels;
        }
        const int32x4_t shift = vldrbq_z_s32(exponent + c, lanes);
        const int32x4_t none = vdupq_n_s32(0);
        int32x4_t x = vshlq_s32(sum, vmaxq_s32(shift, none));
        x = vqrdmulhq_s32(x, vldrwq_z_s32(mantissa + c, lanes));
        /* halves away from zero: one less before a shift that rounds halves upwards */
        x = vaddq_m_s32(x, x, vshrq_n_s32(x, 31), vcmpltq_s32(shift, none));
        x = vaddq_n_s32(vrshlq_s32(x, vminq_s32(shift, none)), zero);
        x = vminq_s32(vmaxq_s32(x, vdupq_n_s32(low)), vdupq_n_s32(high));
        vstrbq_p_s32(out + c, x, lanes);
    }
#else
#if defined(EDGEC_SMLAD)
    for (; c + 4 <= channels; c += 4) {
        int32_t s0 = bias[c];
        int32_t s1 = bias[c + 1];
        int32_t s2 = bias[c + 2];
        int32_t s3 = bias[c + 3];
        const int8_t *weight = weights + c;
        for (int32_t t = 0; t < count; ++t) {
            const uint32_t x = edgec_load4(taps[t] + c);
            const uint32_t w = edgec_load4(weight);
            const int32_t x_even = edgec_even(x);
            const int32_t w_even = edgec_even(w);
            const int32_t x_odd = edgec_odd(x);
            const int32_t w_odd = edgec_odd(w);
            s0 = __smlabb(x_even, w_even, s0);
            s1 = __smlabb(x_odd, w_odd, s1);
            s2 = __smlatt(x_even, w_even, s2);
            s3 = __smlatt(x_odd, w_odd, s3);
            weight += channels;
        }
        out[c] = finish(s0, mantissa[c], exponent[c], zero, low, high);
        out[c + 1] = finish(s1, mantissa[c + 1], exponent[c + 1], zero, low, high);
        out[c + 2] = finish(s2, mantissa[c + 2], exponent[c + 2], zero, low, high);
        out[c + 3] = finish(s3, mantissa[c + 3], exponent[c + 3], zero, low, high);
    }
#endif
    for (; c < channels; ++c) {
        const int8_t *weight = weights + c;
        int32_t sum = bias[c];
        for (int32_t t = 0; t < count; ++t) {
            sum += taps[t][c] * *weight;
            weight += channels;
        }
        out[c] = finish(sum, mantissa[c], exponent[c], zero, low, high);
    }
#endif
}

/* One pixel of any form; what lies in the padding counts as the zero point. */
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
        const int32_t scaled =
            edgec_scale_wide(sum, p->scales.mantissa[o], p->scales.exponent[o]);
        out[o] = (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
    }
}

void edgec_depthwise_s8(
    const edgec_conv_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch) {
    const int8_t *taps[MOST_TAPS];
    const int32_t count = p->k_h * p->k_w;
    const int collect = p->out_c == p->in_c && count <= MOST_TAPS && p->wide == 0;
    memset(scratch, p->in_zero, (size_t)p->in_c);
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            const int32_t top = y * p->stride_h - p->pad_h;
            for (int32_t x = 0; x < p->out_w; ++x) {
                const int32_t left = x * p->stride_w - p->pad_w;
                if (collect) {
                    int32_t t = 0;
                    for (int32_t i = 0; i < p->k_h; ++i) {
                        const int32_t row = top + i * p->dilation_h;
                        const int above = row < 0 || row >= p->in_h;
                        const int8_t *line = above ? scratch : in + row * p->in_w * p->in_c;
                        for (int32_t j = 0; j < p->k_w; ++j) {
                            const int32_t column = left + j * p->dilation_w;
                            const int outside = above || column < 0 || column >= p->in_w;
                            taps[t++] = outside ? scratch : line + column * p->in_c;
                        }
                    }
                    one_each(p, taps, count, out);
                } else {
                    anywhere(p, in, top, left, out);
                }
                out += p->out_c;
            }
        }
        in += p->in_h * p->in_w * p->in_c;
    }
}
