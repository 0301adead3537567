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

typedef struct edgec_rows_s8 {
    int32_t size;       /* elements of a row */
    int32_t columns;    /* outputs */
    int32_t out_stride; /* from the outputs of the first row to those of the second */
    int32_t out_zero, low, high;
    int32_t bias_width;    /* bytes: 2 or 4 */
    edgec_row_s8 wide;     /* instead of these functions; a null pointer where they do */
    int32_t each;          /* where rounded once: -1: a scale per column, 0: one for all */
    const int8_t *weights; /* [columns][size] */
    const void *bias;
    const int32_t *mantissa;
    const int8_t *exponent;
} edgec_rows_s8;

static inline int32_t edgec_bias(const void *bias, int32_t width, int32_t n) {
    return width == 2 ? ((const int16_t *)bias)[n] : ((const int32_t *)bias)[n];
}

/* Whether rows are taken in pairs; scratch is enough for it. */
static inline int edgec_in_pairs(const edgec_rows_s8 *p) {
    return !p->wide && p->size <= EDGEC_MOST_PAIRED;
}

/* How sums are rounded, known where a kernel is compiled: twice with a scale per column in
 * convolutions, once in linear layers. */
typedef enum { EDGEC_TWICE, EDGEC_ONCE } edgec_rounding;

static EDGEC_INLINE int8_t edgec_finish_s8(
    const edgec_rows_s8 *p, int32_t sum, int32_t column, edgec_rounding rounding,
    edgec_range range) {
    const int32_t entry = rounding == EDGEC_ONCE ? column & p->each : column;
    const int32_t mantissa = p->mantissa[entry];
    const int32_t exponent = p->exponent[entry];
    const int32_t scaled = rounding == EDGEC_ONCE
                               ? edgec_scale_down_once(sum, mantissa, exponent)
                               : edgec_scale_down(sum, mantissa, exponent);
    return edgec_clamp_s8(scaled + p->out_zero, p->low, p->high, range);
}

#if defined(EDGEC_HELIUM)
/* Bias and scale of four neighbouring columns. */
typedef struct {
    int32x4_t bias, mantissa, exponent;
} edgec_columns_4;

static EDGEC_INLINE edgec_columns_4 edgec_columns_from(
    const edgec_rows_s8 *p, int32_t column, edgec_rounding rounding, int32_t bias_width) {
    edgec_columns_4 four;
    four.bias = bias_width == 2 ? vldrhq_s32((const int16_t *)p->bias + column)
                                : vldrwq_s32((const int32_t *)p->bias + column);
    if (rounding == EDGEC_TWICE || p->each != 0) {
        four.mantissa = vldrwq_s32(p->mantissa + column);
        four.exponent = vldrbq_s32(p->exponent + column);
    } else {
        four.mantissa = vdupq_n_s32(p->mantissa[0]);
        four.exponent = vdupq_n_s32(p->exponent[0]);
    }
    return four;
}

static inline void edgec_finish_4_s8(
    const edgec_rows_s8 *p, const edgec_columns_4 *four, int32x4_t sums, int8_t *out,
    edgec_rounding rounding) {
    const int32x4_t x = vaddq_s32(sums, four->bias);
    const int32x4_t scaled = rounding == EDGEC_ONCE
                                 ? edgec_scale_down_once_4(x, four->mantissa, four->exponent)
                                 : edgec_scale_down_4(x, four->mantissa, four->exponent);
    vstrbq_s32(out, edgec_clamp_4(scaled, p->out_zero, p->low, p->high));
}
#endif

#if defined(EDGEC_HELIUM)
/* Rows, one after the other; `bias_width` is known where this is compiled. */
static EDGEC_INLINE void edgec_some_rows_s8(
    const edgec_rows_s8 *given, const int8_t *rows, int32_t count, int8_t *out,
    edgec_rounding rounding, int32_t bias_width) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_rows_s8 copy = *given;
    const edgec_rows_s8 *const p = &copy;
    const int8_t *weights = p->weights;
    int32_t column = 0;
    for (; column + 4 <= p->columns; column += 4) {
        const edgec_columns_4 four = edgec_columns_from(p, column, rounding, bias_width);
        const int32x4_t first = edgec_dot_4_s8(rows, weights, p->size, p->size);
        edgec_finish_4_s8(p, &four, first, out + column, rounding);
        if (count == 2) {
            const int32x4_t second = edgec_dot_4_s8(rows + p->size, weights, p->size, p->size);
            edgec_finish_4_s8(p, &four, second, out + p->out_stride + column, rounding);
        }
        weights += 4 * p->size;
    }
    for (; column < p->columns; ++column) {
        const int32_t bias = edgec_bias(p->bias, bias_width, column);
        for (int32_t row = 0; row < count; ++row) {
            const int32_t sum = edgec_dot_s8(rows + row * p->size, weights, p->size, bias);
            out[row * p->out_stride + column] =
                edgec_finish_s8(p, sum, column, rounding, EDGEC_LIMITS);
        }
        weights += p->size;
    }
}
#endif

/* `wide` is a null pointer. */
static EDGEC_INLINE void edgec_one_row_s8(
    const edgec_rows_s8 *given, const int8_t *row, int8_t *out, edgec_rounding rounding) {
#if defined(EDGEC_HELIUM)
    if (given->bias_width == 2) {
        edgec_some_rows_s8(given, row, 1, out, rounding, 2);
    } else {
        edgec_some_rows_s8(given, row, 1, out, rounding, 4);
    }
#else
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_rows_s8 copy = *given;
    const edgec_rows_s8 *const p = &copy;
    const int8_t *weights = p->weights;
    int32_t column = 0;
    while (column < p->columns) {
        /* the last three and fewer are taken one by one: the same loop, with equal columns */
        const int32_t next = p->columns - column >= 4 ? 1 : 0;
        int32_t sums[4];
        for (int32_t i = 0; i < 4; ++i) {
            sums[i] = edgec_bias(p->bias, p->bias_width, column + i * next);
        }
        edgec_dot_1x4_s8(row, weights, next * p->size, p->size, sums);
        const int32_t last = column + 3 * next;
        for (int32_t i = 0; column <= last; ++i) {
            out[column] = edgec_finish_s8(p, sums[i], column, rounding, EDGEC_LIMITS);
            weights += p->size;
            ++column;
        }
    }
#endif
}

/* Two rows made ready (edgec_pair_ready); `wide` is a null pointer. */
static EDGEC_INLINE void edgec_two_rows_s8(
    const edgec_rows_s8 *given, const int8_t *rows, int8_t *out, edgec_rounding rounding,
    edgec_range range) {
#if defined(EDGEC_HELIUM)
    (void)range;
    if (given->bias_width == 2) {
        edgec_some_rows_s8(given, rows, 2, out, rounding, 2);
    } else {
        edgec_some_rows_s8(given, rows, 2, out, rounding, 4);
    }
#else
    const edgec_rows_s8 copy = *given;
    const edgec_rows_s8 *const p = &copy;
    const int8_t *weights = p->weights;
    int8_t *second = out + p->out_stride;
    int32_t column = 0;
    for (; column < p->columns; column += 2) {
        /* the last of an odd number is computed twice */
        const int32_t next = column + 1 < p->columns ? column + 1 : column;
        int32_t bias0;
        int32_t bias1;
        if (p->bias_width == 2) {
            bias0 = ((const int16_t *)p->bias)[column];
            bias1 = ((const int16_t *)p->bias)[next];
        } else {
            bias0 = ((const int32_t *)p->bias)[column];
            bias1 = ((const int32_t *)p->bias)[next];
        }
        int32_t sums[2][2] = {{bias0, bias1}, {bias0, bias1}};
        edgec_dot_2x2_s8(rows, weights, (next - column) * p->size, p->size, sums);
        out[column] = edgec_finish_s8(p, sums[0][0], column, rounding, range);
        out[next] = edgec_finish_s8(p, sums[0][1], next, rounding, range);
        second[column] = edgec_finish_s8(p, sums[1][0], column, rounding, range);
        second[next] = edgec_finish_s8(p, sums[1][1], next, rounding, range);
        weights += 2 * p->size;
    }
#endif
}

#endif
