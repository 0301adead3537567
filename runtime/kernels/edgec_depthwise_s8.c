/* Depthwise convolutions on int8. */
#include <string.h>

#include "edgec_dot_s8.h"
#include "edgec_fixed_point.h"
#include "edgec_kernels.h"
#ifdef EDGEC_CMSIS_NN
#include "edgec_cmsis_nn.h"
#endif

/* Taps of a window whose addresses are collected before the channels are walked. */
#define MOST_TAPS 49

static EDGEC_INLINE int8_t finish(
    const edgec_conv_s8_params *p, int32_t sum, int32_t channel, edgec_range range) {
    const int32_t scaled =
        edgec_scale_down(sum, p->scales.mantissa[channel], p->scales.exponent[channel]);
    return edgec_clamp_s8(scaled + p->out_zero, p->low, p->high, range);
}

/* One pixel, one output per input channel: taps[t] points to the channels of tap t. */
static EDGEC_INLINE void one_each(
    const edgec_conv_s8_params *given, const int8_t *const *taps, int32_t count, int8_t *out,
    edgec_range range) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_conv_s8_params copy = *given;
    const edgec_conv_s8_params *const p = &copy;
    const int32_t channels = p->in_c;
    const int32_t *const bias = (const int32_t *)p->bias;
    int32_t c = 0;
#if defined(EDGEC_HELIUM)
    (void)range;
    for (; c + 8 <= channels; c += 8) {
        const int8_t *weight = p->weights + c;
        /* even and odd channels apart, as the long products leave them */
        const int32x4x2_t start = vld2q_s32(bias + c);
        const int32x4x2_t mantissa = vld2q_s32(p->scales.mantissa + c);
        const int16x8_t exponent = vldrbq_s16(p->scales.exponent + c);
        int32x4_t even = start.val[0];
        int32x4_t odd = start.val[1];
        for (int32_t t = 0; t < count; ++t) {
            const int16x8_t x = vldrbq_s16(taps[t] + c);
            const int16x8_t w = vldrbq_s16(weight);
            even = vaddq_s32(even, vmullbq_int_s16(x, w));
            odd = vaddq_s32(odd, vmulltq_int_s16(x, w));
            weight += channels;
        }
        even = edgec_scale_down_4(even, mantissa.val[0], vmovlbq_s16(exponent));
        odd = edgec_scale_down_4(odd, mantissa.val[1], vmovltq_s16(exponent));
        int16x8_t y = vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), even), odd);
        y = vqaddq_n_s16(y, (int16_t)p->out_zero);
        y = vmaxq_s16(y, vdupq_n_s16((int16_t)p->low));
        y = vminq_s16(y, vdupq_n_s16((int16_t)p->high));
        vstrbq_s16(out + c, y);
    }
    for (; c < channels; c += 4) {
        const mve_pred16_t lanes = vctp32q((uint32_t)(channels - c));
        int32x4_t sum = vldrwq_z_s32(bias + c, lanes);
        const int8_t *weight = p->weights + c;
        for (int32_t t = 0; t < count; ++t) {
            const int32x4_t x = vldrbq_z_s32(taps[t] + c, lanes);
            sum = vaddq_s32(sum, vmulq_s32(x, vldrbq_z_s32(weight, lanes)));
            weight += channels;
        }
        sum = edgec_scale_down_4(
            sum, vldrwq_z_s32(p->scales.mantissa + c, lanes),
            vldrbq_z_s32(p->scales.exponent + c, lanes));
        vstrbq_p_s32(out + c, edgec_clamp_4(sum, p->out_zero, p->low, p->high), lanes);
    }
#else
#if defined(EDGEC_SMLAD)
    for (; c + 4 <= channels; c += 4) {
        int32_t s0 = bias[c];
        int32_t s1 = bias[c + 1];
        int32_t s2 = bias[c + 2];
        int32_t s3 = bias[c + 3];
        const int8_t *weight = p->weights + c;
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
        out[c] = finish(p, s0, c, range);
        out[c + 1] = finish(p, s1, c + 1, range);
        out[c + 2] = finish(p, s2, c + 2, range);
        out[c + 3] = finish(p, s3, c + 3, range);
    }
#endif
    for (; c < channels; ++c) {
        const int8_t *weight = p->weights + c;
        int32_t sum = bias[c];
        for (int32_t t = 0; t < count; ++t) {
            sum += taps[t][c] * *weight;
            weight += channels;
        }
        out[c] = finish(p, sum, c, range);
    }
#endif
}

/* The window whose first column is `left`; `zeros` stands for what lies in the padding. */
static void collect(
    const edgec_conv_s8_params *p, const int8_t *in, int32_t top, int32_t left,
    const int8_t *zeros, const int8_t **taps) {
    for (int32_t i = 0; i < p->k_h; ++i) {
        const int32_t row = top + i * p->dilation_h;
        const int within = row >= 0 && row < p->in_h;
        for (int32_t j = 0; j < p->k_w; ++j) {
            const int32_t column = left + j * p->dilation_w;
            const int inside = within && column >= 0 && column < p->in_w;
            *taps++ = inside ? in + (row * p->in_w + column) * p->in_c : zeros;
        }
    }
}

/* One pixel of any form; what lies in the padding counts as the zero point. */
static void anywhere(
    const edgec_conv_s8_params *p, const int8_t *in, int32_t top, int32_t left, int8_t *out) {
    const int32_t per = p->out_c / p->in_c;
    for (int32_t o = 0; o < p->out_c; ++o) {
        const int32_t c = o / per;
        int32_t sum = ((const int32_t *)p->bias)[o];
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

/* One row of the output, one output per input channel. */
static void row_of(
    const edgec_conv_s8_params *p, const int8_t *in, int32_t top, int8_t *out,
    const int8_t *zeros) {
    const int8_t *taps[MOST_TAPS];
    const int32_t count = p->k_h * p->k_w;
    const int32_t last = (p->k_w - 1) * p->dilation_w;
    const int32_t step = p->stride_w * p->in_c;
    const int whole = top >= 0 && top + (p->k_h - 1) * p->dilation_h < p->in_h;
    const edgec_range range = edgec_range_of(p->low, p->high);
    int moved = 0; /* the window before this one lies inside as well: it moves */
    for (int32_t x = 0; x < p->out_w; ++x) {
        const int32_t left = x * p->stride_w - p->pad_w;
        const int inside = left >= 0 && left + last < p->in_w;
        if (inside && moved && whole) {
            for (int32_t t = 0; t < count; ++t) {
                taps[t] += step;
            }
        } else {
            collect(p, in, top, left, zeros, taps);
        }
        moved = inside;
        if (range == EDGEC_WHOLE_RANGE) {
            one_each(p, taps, count, out, EDGEC_WHOLE_RANGE);
        } else {
            one_each(p, taps, count, out, EDGEC_LIMITS);
        }
        out += p->out_c;
    }
}

void edgec_depthwise_s8(
    const edgec_conv_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch) {
#ifdef EDGEC_CMSIS_NN
    if (edgec_cmsis_depthwise_s8(p, in, out) != 0) {
        return;
    }
#endif
    const int fast = p->out_c == p->in_c && p->k_h * p->k_w <= MOST_TAPS && !p->wide;
    memset(scratch, p->in_zero, (size_t)p->in_c);
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            const int32_t top = y * p->stride_h - p->pad_h;
            if (fast) {
                row_of(p, in, top, out, scratch);
                out += p->out_w * p->out_c;
                continue;
            }
            for (int32_t x = 0; x < p->out_w; ++x) {
                anywhere(p, in, top, x * p->stride_w - p->pad_w, out);
                out += p->out_c;
            }
        }
        in += p->in_h * p->in_w * p->in_c;
    }
}
