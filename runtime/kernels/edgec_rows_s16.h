/* One or two rows of int16 times a matrix of int8 weights, requantized.
 *
 * Sums are added up in 32 bits where they fit, which the writer of the C has worked out from the
 * weights, and in 64 bits where `wide` is set; all forms give the same.
 */
#ifndef EDGEC_ROWS_S16_H
#define EDGEC_ROWS_S16_H

#include "edgec_dot_s8.h"
#include "edgec_fixed_point.h"
#include "edgec_kernels_s16.h"

typedef struct {
    int32_t size;       /* elements of a row */
    int32_t columns;    /* outputs */
    int32_t out_stride; /* from the outputs of the first row to those of the second */
    int32_t low, high;
    int32_t wide;
    int32_t each;          /* -1: a scale per column, 0: one for all */
    const int8_t *weights; /* [columns][size] */
    const int32_t *bias, *bias_high;
    const int32_t *mantissa;
    const int8_t *exponent;
} edgec_rows_s16;

/* Products of int16 and int8 whose sum fits 31 bits, whatever they are. */
#define EDGEC_PART 256

static inline int16_t edgec_clamp_s16(int32_t x, int32_t low, int32_t high) {
    return (int16_t)edgec_clamp(x, low, high);
}

/* A row as edgec_dot_*_s16 take it: with SMLAD, whose weights come as bytes 0 and 2, and 1 and 3,
 * elements 1 and 2 of each four change places. */
static inline void edgec_row_ready(int16_t *row, int32_t size) {
#if defined(EDGEC_SMLAD)
    for (int32_t i = 0; i + 4 <= size; i += 4) {
        const int16_t second = row[i + 1];
        row[i + 1] = row[i + 2];
        row[i + 2] = second;
    }
#else
    (void)row;
    (void)size;
#endif
}

static inline int32_t edgec_dot_s16(
    const int16_t *row, const int8_t *column, int32_t size, int32_t sum) {
    int32_t i = 0;
#if defined(EDGEC_SMLAD)
    for (; i + 4 <= size; i += 4) {
        const uint32_t c = edgec_load4(column + i);
        const edgec_word *pair = (const edgec_word *)(const void *)(row + i);
        sum = __smlad(pair[0], edgec_even(c), sum);
        sum = __smlad(pair[1], edgec_odd(c), sum);
    }
#elif defined(EDGEC_HELIUM)
    for (; i < size; i += 8) {
        const mve_pred16_t lanes = vctp16q((uint32_t)(size - i));
        const int16x8_t x = vldrhq_z_s16(row + i, lanes);
        sum = vmladavaq_s16(sum, x, vldrbq_z_s16(column + i, lanes));
    }
#endif
    for (; i < size; ++i) {
        sum += row[i] * column[i];
    }
    return sum;
}

/* The same with 64 bits. */
static inline int64_t edgec_long_dot_s16(const int16_t *row, const int8_t *column, int32_t size) {
    int64_t sum = 0;
    for (int32_t i = 0; i < size; i += EDGEC_PART) {
        const int32_t part = size - i < EDGEC_PART ? size - i : EDGEC_PART;
        sum += edgec_dot_s16(row + i, column + i, part, 0);
    }
    return sum;
}

static inline int64_t edgec_long_bias(
    const int32_t *bias, const int32_t *bias_high, int32_t column) {
    return bias_high[column] * ((int64_t)1 << 32) + (uint32_t)bias[column];
}

static inline void edgec_one_row_s16(const edgec_rows_s16 *given, const int16_t *row, int16_t *out) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_rows_s16 copy = *given;
    const edgec_rows_s16 *const p = &copy;
    const int8_t *weights = p->weights;
    for (int32_t column = 0; column < p->columns; ++column) {
        const int32_t mantissa = p->mantissa[column & p->each];
        const int32_t exponent = p->exponent[column & p->each];
        int32_t scaled;
        if (p->wide != 0) {
            const int64_t bias = edgec_long_bias(p->bias, p->bias_high, column);
            const int64_t sum = bias + edgec_long_dot_s16(row, weights, p->size);
            scaled = edgec_scale_long(sum, mantissa, exponent);
        } else {
            const int32_t sum = edgec_dot_s16(row, weights, p->size, p->bias[column]);
            scaled = edgec_scale_down_once(sum, mantissa, exponent);
        }
        out[column] = edgec_clamp_s16(scaled, p->low, p->high);
        weights += p->size;
    }
}

/* Whether rows are taken in pairs; scratch is enough for it. */
static inline int edgec_rows_in_pairs(const edgec_rows_s16 *p) {
    return p->wide == 0 && p->size <= EDGEC_MOST_PAIRED;
}

/* Two rows of `size` elements, one after the other; `wide` is not set. */
static inline void edgec_two_rows_s16(
    const edgec_rows_s16 *given, const int16_t *rows, int16_t *out) {
    const edgec_rows_s16 copy = *given;
    const edgec_rows_s16 *const p = &copy;
    edgec_one_row_s16(p, rows, out);
    edgec_one_row_s16(p, rows + p->size, out + p->out_stride);
}

#endif
