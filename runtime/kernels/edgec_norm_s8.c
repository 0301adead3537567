/* Norms of rows on int8: integer sums, integer roots. */
#include "edgec_fixed_point.h"
#include "edgec_kernels.h"
#include "edgec_root.h"

enum { ELEMENT_BITS = 20 };

void edgec_layer_norm_s8(const edgec_layer_norm_s8_params *p, const int8_t *in, int8_t *out) {
    const int64_t epsilon = (int64_t)(((uint64_t)p->epsilon_high << 32) | p->epsilon_low);
    const int32_t last = ELEMENT_BITS + p->gain_bits;
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            int32_t sum = 0;
            int32_t squares = 0;
            for (int32_t n = 0; n < p->count; ++n) {
                const int32_t x = in[n * p->inner + i];
                sum += x;
                squares += x * x;
            }
            const int64_t spread = (int64_t)p->count * squares - (int64_t)sum * sum;
            int32_t inverse = 0;
            int32_t right = 1;
            if (spread > 0) {
                int32_t pairs;
                inverse = edgec_inverse_root(
                    (uint64_t)(spread * ((int64_t)1 << p->spread_bits) + epsilon), &pairs);
                right = 61 - ELEMENT_BITS - p->spread_bits / 2 - pairs;
            }
            const int64_t half = (int64_t)1 << (right - 1);
            int32_t channel = i;
            for (int32_t n = 0; n < p->count; ++n) {
                const int32_t centred = p->count * in[n * p->inner + i] - sum;
                const int32_t t = (int32_t)(((int64_t)centred * inverse + half) >> right);
                const int64_t shifted = p->offset[channel] * ((int64_t)1 << ELEMENT_BITS);
                const int64_t wide =
                    (int64_t)t * p->gain[channel] + shifted + ((int64_t)1 << (last - 1));
                const int64_t y = wide >> last;
                out[n * p->inner + i] = (int8_t)(y < -128 ? -128 : (y > 127 ? 127 : y));
                channel += p->inner;
                channel = channel < p->period ? channel : channel - p->period;
            }
        }
        in += p->count * p->inner;
        out += p->count * p->inner;
    }
}

/* The upper half of 2*a*b in 3 integer bits, doubled as often as `left` says, saturated. */
static int32_t raised(int64_t x, int32_t left) {
    const int64_t wide = x * ((int64_t)1 << left);
    return (int32_t)(wide > INT32_MAX ? INT32_MAX : (wide < INT32_MIN ? INT32_MIN : wide));
}

/* 1 / sqrt(value) = mantissa * 2^(-31 - exponent): Newton's iteration, as TFLite's kernel. */
static int32_t inverse_root(int32_t value, int32_t *exponent) {
    const int32_t three_halves = (1 << 28) + (1 << 27);
    *exponent = 0;
    if (value <= 1) {
        return INT32_MAX;
    }
    *exponent = 11;
    while (value >= (1 << 29)) {
        value /= 4;
        ++*exponent;
    }
    while (value < (1 << 27)) {
        value *= 4;
        --*exponent;
    }
    const int32_t half = edgec_shift_right(value >> 1, 1);
    int32_t x = 1 << 28;
    for (int32_t i = 0; i < 5; ++i) {
        const int32_t square = edgec_doubling_high(x, x);
        const int32_t cube = raised(edgec_doubling_high(square, x), 6);
        const int64_t next =
            (int64_t)edgec_doubling_high(three_halves, x) - edgec_doubling_high(half, cube);
        x = raised(next, 3);
    }
    x = edgec_doubling_high(x, 1518500250); /* half of the root of 2 */
    if (*exponent < 0) {
        x = (int32_t)((uint32_t)x << -*exponent);
        *exponent = 0;
    }
    return x;
}

void edgec_l2_norm_s8(const edgec_l2_norm_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        int32_t squares = 0;
        for (int32_t i = 0; i < p->size; ++i) {
            const int32_t x = in[i] - p->in_zero;
            squares += x * x;
        }
        int32_t exponent;
        const int32_t mantissa = inverse_root(squares, &exponent);
        for (int32_t i = 0; i < p->size; ++i) {
            const int32_t y = edgec_scale(in[i] - p->in_zero, mantissa, 7 - exponent);
            out[i] = (int8_t)edgec_clamp(y + p->out_zero, -128, 127);
        }
        in += p->size;
        out += p->size;
    }
}
