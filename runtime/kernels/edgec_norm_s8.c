/* Norms of rows on int8. */
#include "edgec_kernels.h"

typedef int8_t edgec_element;
enum { EDGEC_LOWEST = INT8_MIN, EDGEC_HIGHEST = INT8_MAX };
typedef int32_t edgec_sum;

#include "edgec_layer_norm.h"

void edgec_layer_norm_s8(const edgec_layer_norm_s8_params *p, const int8_t *in, int8_t *out) {
    edgec_layer_norm(p, in, out);
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
