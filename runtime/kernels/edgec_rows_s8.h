/* One or two rows times a matrix of weights, requantized: the heart of convolutions and linear
 * layers.
 *
 * The zero point of the input is in the bias (bias[o] - zero * sum of weights[o]), so that the
 * inner loop multiplies plain int8; what lies in the padding counts as the zero point.
 */
#ifndef EDGEC_ROWS_S8_H
#define EDGEC_ROWS_S8_H

#include "edgec_dot_s8.h"
#include "edgec_fixed_point.h"
#include "edgec_kernels.h"

#if defined(__GNUC__)
#define EDGEC_APART __attribute__((noinline, unused)) /* a function of its own */
#else
#define EDGEC_APART
#endif

typedef struct {
    int32_t size;       /* elements of a row */
    int32_t columns;    /* outputs */
    int32_t out_stride; /* from the outputs of the first row to those of the second */
    int32_t out_zero, low, high;
    int32_t wide;          /* sums or scales that need the slow requantization */
    int32_t each;          /* -1: a scale per column, 0: one for all */
    const int8_t *weights; /* [columns][size] */
    const int32_t *bias;
    const int32_t *mantissa;
    const int8_t *exponent;
} edgec_rows_s8;

/* How sums are rounded, known where a kernel is compiled. */
typedef enum { EDGEC_TWICE, EDGEC_ONCE } edgec_rounding;

static EDGEC_APART int32_t edgec_finish_wide(
    int32_t sum, int32_t mantissa, int32_t exponent, edgec_rounding rounding) {
    return rounding == EDGEC_ONCE ? edgec_scale_once(sum, mantissa, exponent)
                                  : edgec_scale_wide(sum, mantissa, exponent);
}

static inline int8_t edgec_finish_s8(
    const edgec_rows_s8 *p, int32_t sum, int32_t column, edgec_rounding rounding) {
    const int32_t mantissa = p->mantissa[column & p->each];
    const int32_t exponent = p->exponent[column & p->each];
    int32_t scaled;
    if (p->wide != 0) {
        scaled = edgec_finish_wide(sum, mantissa, exponent, rounding);
    } else if (rounding == EDGEC_ONCE) {
        scaled = edgec_scale_down_once(sum, mantissa, exponent);
    } else {
        scaled = edgec_scale_down(sum, mantissa, exponent);
    }
    return (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
}

/* The same for four neighbouring columns. */
static inline void edgec_finish4_s8(
    const edgec_rows_s8 *p, const int32_t sums[4], int32_t column, int8_t *out,
    edgec_rounding rounding) {
#if defined(EDGEC_HELIUM)
    if (p->wide == 0) {
        int32x4_t mantissa;
        int32x4_t exponent;
        if (p->each != 0) {
            mantissa = vldrwq_s32(p->mantissa + column);
            exponent = vldrbq_s32(p->exponent + column);
        } else {
            mantissa = vdupq_n_s32(p->mantissa[0]);
            exponent = vdupq_n_s32(p->exponent[0]);
        }
        int32x4_t x = {sums[0], sums[1], sums[2], sums[3]};
        x = rounding == EDGEC_ONCE ? edgec_scale_down_once_4(x, mantissa, exponent)
                                   : edgec_scale_down_4(x, mantissa, exponent);
        vstrbq_s32(out + column, edgec_clamp_4(x, p->out_zero, p->low, p->high));
        return;
    }
#endif
    for (int32_t i = 0; i < 4; ++i) {
        out[column + i] = edgec_finish_s8(p, sums[i], column + i, rounding);
    }
}

static inline void edgec_one_row_s8(
    const edgec_rows_s8 *given, const int8_t *row, int8_t *out, edgec_rounding rounding) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_rows_s8 copy = *given;
    const edgec_rows_s8 *const p = &copy;
    const int8_t *weights = p->weights;
    int32_t column = 0;
    for (; column + 4 <= p->columns; column += 4) {
        int32_t sums[4] = {
            p->bias[column], p->bias[column + 1], p->bias[column + 2], p->bias[column + 3]};
        edgec_dot_1x4_s8(row, weights, p->size, p->size, sums);
        edgec_finish4_s8(p, sums, column, out, rounding);
        weights += 4 * p->size;
    }
    for (; column < p->columns; ++column) {
        const int32_t sum = edgec_dot_s8(row, weights, p->size, p->bias[column]);
        out[column] = edgec_finish_s8(p, sum, column, rounding);
        weights += p->size;
    }
}

/* Two rows made ready (edgec_pair_ready). */
static inline void edgec_two_rows_s8(
    const edgec_rows_s8 *given, const int8_t *rows, int8_t *out, edgec_rounding rounding) {
#if defined(EDGEC_HELIUM)
    /* four columns at once fill a vector of results, which pays more than sharing weights */
    edgec_one_row_s8(given, rows, out, rounding);
    edgec_one_row_s8(given, rows + given->size, out + given->out_stride, rounding);
#else
    const edgec_rows_s8 copy = *given;
    const edgec_rows_s8 *const p = &copy;
    const int8_t *weights = p->weights;
    int8_t *second = out + p->out_stride;
    for (int32_t column = 0; column < p->columns; column += 2) {
        /* the last of an odd number is computed twice */
        const int32_t next = column + 1 < p->columns ? column + 1 : column;
        const int32_t bias0 = p->bias[column];
        const int32_t bias1 = p->bias[next];
        int32_t sums[2][2] = {{bias0, bias1}, {bias0, bias1}};
        edgec_dot_2x2_s8(rows, weights, (next - column) * p->size, p->size, sums);
        out[column] = edgec_finish_s8(p, sums[0][0], column, rounding);
        out[next] = edgec_finish_s8(p, sums[0][1], next, rounding);
        second[column] = edgec_finish_s8(p, sums[1][0], column, rounding);
        second[next] = edgec_finish_s8(p, sums[1][1], next, rounding);
        weights += 2 * p->size;
    }
#endif
}

#endif
