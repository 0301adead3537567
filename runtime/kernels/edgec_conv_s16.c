/* Convolutions on int16: windows are gathered into rows and multiplied; depthwise ones by taps. */
#include <string.h>

#include "edgec_rows_s16.h"

/* Taps of a window whose addresses are collected before the channels are walked. */
#define MOST_TAPS 49

static inline size_t bytes_of(int32_t elements) {
    return (size_t)elements * sizeof(int16_t);
}

/* The window of output (y, x), channels first .. first + depth, as one row. */
static void gather(
    const edgec_conv_s16_params *p, const int16_t *in, int32_t y, int32_t x, int32_t first,
    int32_t depth, int16_t *row) {
    int16_t *to = row;
    const int32_t top = y * p->stride_h - p->pad_h;
    const int32_t left = x * p->stride_w - p->pad_w;
    const int whole = depth == p->in_c && p->dilation_w == 1 && left >= 0 &&
                      left + p->k_w <= p->in_w;
    for (int32_t i = 0; i < p->k_h; ++i) {
        const int32_t line = top + i * p->dilation_h;
        if (line < 0 || line >= p->in_h) {
            memset(to, 0, bytes_of(p->k_w * depth));
            to += p->k_w * depth;
            continue;
        }
        const int16_t *from = in + line * p->in_w * p->in_c + first;
        if (whole) {
            memcpy(to, from + left * p->in_c, bytes_of(p->k_w * depth));
            to += p->k_w * depth;
            continue;
        }
        for (int32_t j = 0; j < p->k_w; ++j) {
            const int32_t column = left + j * p->dilation_w;
            if (column < 0 || column >= p->in_w) {
                memset(to, 0, bytes_of(depth));
            } else {
                memcpy(to, from + column * p->in_c, bytes_of(depth));
            }
            to += depth;
        }
    }
    edgec_row_ready(row, p->k_h * p->k_w * depth);
}

void edgec_conv_s16(
    const edgec_conv_s16_params *p, const int16_t *in, int16_t *out, void *scratch) {
    int16_t *const window = (int16_t *)scratch;
    const int32_t depth = p->in_c / p->groups;
    const int32_t per_group = p->out_c / p->groups;
    edgec_rows_s16 rows = {0};
    rows.size = p->k_h * p->k_w * depth;
    rows.columns = per_group;
    rows.out_stride = p->out_c;
    rows.low = p->low;
    rows.high = p->high;
    rows.wide = p->wide;
    rows.each = -1;
    /* with groups, the first one is written before the window of the next is read */
    const int32_t together = p->groups == 1 && edgec_rows_in_pairs(&rows) ? 2 : 1;
    for (int32_t n = 0; n < p->batch; ++n) {
        int32_t left = p->out_h * p->out_w;
        int32_t pixel = 0;
        while (left > 0) {
            const int32_t count = left < together ? left : together;
            for (int32_t g = 0; g < p->groups; ++g) {
                rows.weights = p->weights + g * per_group * rows.size;
                rows.bias = p->bias + g * per_group;
                rows.bias_high = p->wide != 0 ? p->bias_high + g * per_group : p->bias_high;
                rows.mantissa = p->scales.mantissa + g * per_group;
                rows.exponent = p->scales.exponent + g * per_group;
                for (int32_t i = 0; i < count; ++i) {
                    const int32_t y = (pixel + i) / p->out_w;
                    const int32_t x = pixel + i - y * p->out_w;
                    gather(p, in, y, x, g * depth, depth, window + i * rows.size);
                }
                if (count == 2) {
                    edgec_two_rows_s16(&rows, window, out);
                } else {
                    edgec_one_row_s16(&rows, window, out + g * per_group);
                }
            }
            pixel += count;
            left -= count;
            out += count * p->out_c;
        }
        in += p->in_h * p->in_w * p->in_c;
    }
}

/* One pixel, one output per input channel: taps[t] points to the channels of tap t. */
static void one_each(
    const edgec_conv_s16_params *given, const int16_t *const *taps, int32_t count, int16_t *out) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_conv_s16_params copy = *given;
    const edgec_conv_s16_params *const p = &copy;
    const int32_t channels = p->in_c;
    int32_t c = 0;
#if defined(EDGEC_HELIUM)
    for (; c + 8 <= channels; c += 8) {
        const int8_t *weight = p->weights + c;
        /* even and odd channels apart, as the long products leave them */
        const int32x4x2_t bias = vld2q_s32(p->bias + c);
        const int32x4x2_t mantissa = vld2q_s32(p->scales.mantissa + c);
        const int16x8_t exponent = vldrbq_s16(p->scales.exponent + c);
        int32x4_t even = bias.val[0];
        int32x4_t odd = bias.val[1];
        for (int32_t t = 0; t < count; ++t) {
            const int16x8_t x = vldrhq_s16(taps[t] + c);
            const int16x8_t w = vldrbq_s16(weight);
            even = vaddq_s32(even, vmullbq_int_s16(x, w));
            odd = vaddq_s32(odd, vmulltq_int_s16(x, w));
            weight += channels;
        }
        even = edgec_scale_down_once_4(even, mantissa.val[0], vmovlbq_s16(exponent));
        odd = edgec_scale_down_once_4(odd, mantissa.val[1], vmovltq_s16(exponent));
        int16x8_t y = vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), even), odd);
        y = vmaxq_s16(y, vdupq_n_s16((int16_t)p->low));
        y = vminq_s16(y, vdupq_n_s16((int16_t)p->high));
        vstrhq_s16(out + c, y);
    }
    for (; c < channels; c += 4) {
        const mve_pred16_t lanes = vctp32q((uint32_t)(channels - c));
        int32x4_t sum = vldrwq_z_s32(p->bias + c, lanes);
        const int8_t *weight = p->weights + c;
        for (int32_t t = 0; t < count; ++t) {
            const int32x4_t x = vldrhq_z_s32(taps[t] + c, lanes);
            sum = vaddq_s32(sum, vmulq_s32(x, vldrbq_z_s32(weight, lanes)));
            weight += channels;
        }
        sum = edgec_scale_down_once_4(
            sum, vldrwq_z_s32(p->scales.mantissa + c, lanes),
            vldrbq_z_s32(p->scales.exponent + c, lanes));
        vstrhq_p_s32(out + c, edgec_clamp_4(sum, 0, p->low, p->high), lanes);
    }
#elif defined(EDGEC_SMLAD)
    for (; c + 4 <= channels; c += 4) {
        int32_t sums[4] = {p->bias[c], p->bias[c + 1], p->bias[c + 2], p->bias[c + 3]};
        const int8_t *weight = p->weights + c;
        for (int32_t t = 0; t < count; ++t) {
            const int32_t first = edgec_load_pair(taps[t] + c);
            const int32_t second = edgec_load_pair(taps[t] + c + 2);
            const uint32_t w = edgec_load4(weight);
            const int32_t even = edgec_even(w);
            const int32_t odd = edgec_odd(w);
            sums[0] = __smlabb(first, even, sums[0]);
            sums[1] = __smlatb(first, odd, sums[1]);
            sums[2] = __smlabt(second, even, sums[2]);
            sums[3] = __smlatt(second, odd, sums[3]);
            weight += channels;
        }
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t scaled = edgec_scale_down_once(
                sums[i], p->scales.mantissa[c + i], p->scales.exponent[c + i]);
            out[c + i] = edgec_clamp_s16(scaled, p->low, p->high);
        }
    }
#endif
    for (; c < channels; ++c) {
        const int8_t *weight = p->weights + c;
        int32_t sum = p->bias[c];
        for (int32_t t = 0; t < count; ++t) {
            sum += taps[t][c] * *weight;
            weight += channels;
        }
        const int32_t scaled =
            edgec_scale_down_once(sum, p->scales.mantissa[c], p->scales.exponent[c]);
        out[c] = edgec_clamp_s16(scaled, p->low, p->high);
    }
}

/* The window whose first column is `left`; `zeros` stands for what lies in the padding. */
static void collect(
    const edgec_conv_s16_params *p, const int16_t *in, int32_t top, int32_t left,
    const int16_t *zeros, const int16_t **taps) {
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

/* One pixel of any form. */
static void anywhere(
    const edgec_conv_s16_params *p, const int16_t *in, int32_t top, int32_t left, int16_t *out) {
    const int32_t per = p->out_c / p->in_c;
    for (int32_t o = 0; o < p->out_c; ++o) {
        const int32_t c = o / per;
        int64_t sum = p->wide != 0 ? edgec_long_bias(p->bias, p->bias_high, o) : p->bias[o];
        for (int32_t i = 0; i < p->k_h; ++i) {
            const int32_t row = top + i * p->dilation_h;
            for (int32_t j = 0; j < p->k_w; ++j) {
                const int32_t column = left + j * p->dilation_w;
                if (row >= 0 && row < p->in_h && column >= 0 && column < p->in_w) {
                    const int32_t x = in[(row * p->in_w + column) * p->in_c + c];
                    sum += x * p->weights[(i * p->k_w + j) * p->out_c + o];
                }
            }
        }
        const int32_t scaled = edgec_scale_long(sum, p->scales.mantissa[o], p->scales.exponent[o]);
        out[o] = edgec_clamp_s16(scaled, p->low, p->high);
    }
}

void edgec_depthwise_s16(
    const edgec_conv_s16_params *p, const int16_t *in, int16_t *out, void *scratch) {
    const int16_t *taps[MOST_TAPS];
    const int32_t count = p->k_h * p->k_w;
    const int fast = p->out_c == p->in_c && count <= MOST_TAPS && p->wide == 0;
    memset(scratch, 0, bytes_of(p->in_c));
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            const int32_t top = y * p->stride_h - p->pad_h;
            for (int32_t x = 0; x < p->out_w; ++x) {
                const int32_t left = x * p->stride_w - p->pad_w;
                if (fast) {
                    collect(p, in, top, left, (const int16_t *)scratch, taps);
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
