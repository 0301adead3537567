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

#if defined(EDGEC_SMLAD)
/* Two neighbours from any address. */
static inline int32_t edgec_load_pair(const int16_t *from) {
    int32_t pair;
    __builtin_memcpy(&pair, from, sizeof pair);
    return pair;
}
#endif

/* A row as the sums below take it: with SMLAD, whose weights come as bytes 0 and 2, and 1 and 3,
 * elements 1 and 2 of each four change places. */
static inline void edgec_row_ready(int16_t *row, int32_t size) {
#if defined(EDGEC_SMLAD)
    for (; size >= 4; size -= 4) {
        const uint32_t first = (uint32_t)edgec_load_pair(row);
        const uint32_t second = (uint32_t)edgec_load_pair(row + 2);
        const uint32_t even = (first & 0xffffu) | (second << 16);
        const uint32_t odd = (first >> 16) | (second & 0xffff0000u);
        __builtin_memcpy(row, &even, sizeof even);
        __builtin_memcpy(row + 2, &odd, sizeof odd);
        row += 4;
    }
#else
    (void)row;
    (void)size;
#endif
}

/* sum + row . column. */
static inline int32_t edgec_dot_s16(
    const int16_t *row, const int8_t *column, int32_t size, int32_t sum) {
#if defined(EDGEC_HELIUM)
    for (int32_t i = 0; i < size; i += 8) {
        const mve_pred16_t lanes = vctp16q((uint32_t)(size - i));
        const int16x8_t x = vldrhq_z_s16(row + i, lanes);
        sum = vmladavaq_s16(sum, x, vldrbq_z_s16(column + i, lanes));
    }
#else
#if defined(EDGEC_SMLAD)
    for (; size >= 4; size -= 4) {
        const uint32_t c = edgec_load4(column);
        sum = __smlad(edgec_load_pair(row), edgec_even(c), sum);
        sum = __smlad(edgec_load_pair(row + 2), edgec_odd(c), sum);
        row += 4;
        column += 4;
    }
#endif
    for (; size > 0; --size) {
        sum += *row++ * *column++;
    }
#endif
    return sum;
}

#if defined(EDGEC_SMLAD)
/* sums[c] += row . columns[c] for four columns of `size` weights. */
static inline void edgec_dot_1x4_s16(
    const int16_t *row, const int8_t *columns, int32_t size, int32_t sums[4]) {
    /* two pointers and the stride reach four columns: registers are scarce */
    const int8_t *pair = columns + 2 * size;
    const int8_t *const end = columns + (size & ~3);
    int32_t s0 = sums[0];
    int32_t s1 = sums[1];
    int32_t s2 = sums[2];
    int32_t s3 = sums[3];
    while (columns != end) {
        const int32_t even = edgec_load_pair(row);
        const int32_t odd = edgec_load_pair(row + 2);
        uint32_t c = edgec_load4(columns + size);
        s1 = __smlad(odd, edgec_odd(c), __smlad(even, edgec_even(c), s1));
        c = edgec_load4(columns);
        s0 = __smlad(odd, edgec_odd(c), __smlad(even, edgec_even(c), s0));
        c = edgec_load4(pair + size);
        s3 = __smlad(odd, edgec_odd(c), __smlad(even, edgec_even(c), s3));
        c = edgec_load4(pair);
        s2 = __smlad(odd, edgec_odd(c), __smlad(even, edgec_even(c), s2));
        row += 4;
        columns += 4;
        pair += 4;
    }
    for (int32_t left = size & 3; left > 0; --left) {
        s0 += *row * *columns;
        s1 += *row * columns[size];
        s2 += *row * *pair;
        s3 += *row * pair[size];
        ++row;
        ++columns;
        ++pair;
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}
#endif

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

/* A row where sums or scales need the slow arithmetic. */
static EDGEC_APART void edgec_wide_row_s16(
    const edgec_rows_s16 *p, const int16_t *row, int16_t *out) {
    for (int32_t column = 0; column < p->columns; ++column) {
        const int64_t bias = edgec_long_bias(p->bias, p->bias_high, column);
        const int64_t sum = bias + edgec_long_dot_s16(row, p->weights + column * p->size, p->size);
        const int32_t scaled = edgec_scale_long(
            sum, p->mantissa[column & p->each], p->exponent[column & p->each]);
        out[column] = edgec_clamp_s16(scaled, p->low, p->high);
    }
}

static EDGEC_INLINE int16_t edgec_finish_s16(
    const edgec_rows_s16 *p, int32_t sum, int32_t column) {
    const int32_t scaled = edgec_scale_down_once(
        sum, p->mantissa[column & p->each], p->exponent[column & p->each]);
    return edgec_clamp_s16(scaled, p->low, p->high);
}

#if defined(EDGEC_HELIUM)
/* row . columns[c] for four columns, requantized. */
static inline void edgec_four_columns_s16(
    const edgec_rows_s16 *p, const int16_t *row, int32_t column, int16_t *out) {
    const int8_t *c0 = p->weights + column * p->size;
    const int8_t *c1 = c0 + p->size;
    const int8_t *c2 = c1 + p->size;
    const int8_t *c3 = c2 + p->size;
    int32_t s0 = p->bias[column];
    int32_t s1 = p->bias[column + 1];
    int32_t s2 = p->bias[column + 2];
    int32_t s3 = p->bias[column + 3];
    /* a loop whose last turn takes what is left, as in edgec_dot_4_s8 */
    register int32_t left __asm__("lr") = p->size;
    __asm__ volatile(
        "wlstp.16 lr, %[left], 2f\n"
        "1:\n"
        "vldrh.u16 q0, [%[row]], #16\n"
        "vldrb.s16 q1, [%[c0]], #8\n"
        "vldrb.s16 q2, [%[c1]], #8\n"
        "vmladava.s16 %[s0], q0, q1\n"
        "vldrb.s16 q3, [%[c2]], #8\n"
        "vmladava.s16 %[s1], q0, q2\n"
        "vldrb.s16 q1, [%[c3]], #8\n"
        "vmladava.s16 %[s2], q0, q3\n"
        "vmladava.s16 %[s3], q0, q1\n"
        "letp lr, 1b\n"
        "2:\n"
        : [row] "+r"(row), [c0] "+r"(c0), [c1] "+r"(c1), [c2] "+r"(c2), [c3] "+r"(c3),
          [s0] "+Te"(s0), [s1] "+Te"(s1), [s2] "+Te"(s2), [s3] "+Te"(s3), [left] "+r"(left)
        :
        : "q0", "q1", "q2", "q3", "memory");
    const int32x4_t sums = {s0, s1, s2, s3};
    const int32x4_t mantissa =
        p->each != 0 ? vldrwq_s32(p->mantissa + column) : vdupq_n_s32(p->mantissa[0]);
    const int32x4_t exponent =
        p->each != 0 ? vldrbq_s32(p->exponent + column) : vdupq_n_s32(p->exponent[0]);
    const int32x4_t scaled = edgec_scale_down_once_4(sums, mantissa, exponent);
    vstrhq_s32(out + column, edgec_clamp_4(scaled, 0, p->low, p->high));
}
#endif

/* A row made ready. */
static inline void edgec_one_row_s16(
    const edgec_rows_s16 *given, const int16_t *row, int16_t *out) {
    if (given->wide != 0) {
        edgec_wide_row_s16(given, row, out);
        return;
    }
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_rows_s16 copy = *given;
    const edgec_rows_s16 *const p = &copy;
    int32_t column = 0;
#if defined(EDGEC_HELIUM)
    for (; column + 4 <= p->columns; column += 4) {
        edgec_four_columns_s16(p, row, column, out);
    }
#endif
#if defined(EDGEC_SMLAD)
    for (; column + 4 <= p->columns; column += 4) {
        int32_t sums[4] = {
            p->bias[column], p->bias[column + 1], p->bias[column + 2], p->bias[column + 3]};
        edgec_dot_1x4_s16(row, p->weights + column * p->size, p->size, sums);
        for (int32_t i = 0; i < 4; ++i) {
            out[column + i] = edgec_finish_s16(p, sums[i], column + i);
        }
    }
#endif
    for (; column < p->columns; ++column) {
        const int8_t *weights = p->weights + column * p->size;
        const int32_t sum = edgec_dot_s16(row, weights, p->size, p->bias[column]);
        out[column] = edgec_finish_s16(p, sum, column);
    }
}

/* Whether rows are taken in pairs; scratch is enough for it. */
static inline int edgec_rows_in_pairs(const edgec_rows_s16 *p) {
    return p->wide == 0 && p->size <= EDGEC_MOST_PAIRED;
}

/* Two rows made ready, one after the other; `wide` is not set. */
static inline void edgec_two_rows_s16(
    const edgec_rows_s16 *given, const int16_t *rows, int16_t *out) {
#if defined(EDGEC_HELIUM)
    edgec_one_row_s16(given, rows, out);
    edgec_one_row_s16(given, rows + given->size, out + given->out_stride);
#else
    const edgec_rows_s16 copy = *given;
    const edgec_rows_s16 *const p = &copy;
    int16_t *second = out + p->out_stride;
    for (int32_t column = 0; column < p->columns; column += 2) {
        /* the last of an odd number is computed twice */
        const int32_t next = column + 1 < p->columns ? column + 1 : column;
        const int32_t stride = (next - column) * p->size;
        const int8_t *weights = p->weights + column * p->size;
        const int16_t *row = rows;
        int32_t left = p->size;
        int32_t s00 = p->bias[column];
        int32_t s01 = p->bias[next];
        int32_t s10 = s00;
        int32_t s11 = s01;
#if defined(EDGEC_SMLAD)
        for (; left >= 4; left -= 4) {
            const int32_t even0 = edgec_load_pair(row);
            const int32_t odd0 = edgec_load_pair(row + 2);
            const int32_t even1 = edgec_load_pair(row + p->size);
            const int32_t odd1 = edgec_load_pair(row + p->size + 2);
            uint32_t c = edgec_load4(weights + stride);
            int32_t even = edgec_even(c);
            int32_t odd = edgec_odd(c);
            s01 = __smlad(odd0, odd, __smlad(even0, even, s01));
            s11 = __smlad(odd1, odd, __smlad(even1, even, s11));
            c = edgec_load4(weights);
            even = edgec_even(c);
            odd = edgec_odd(c);
            s00 = __smlad(odd0, odd, __smlad(even0, even, s00));
            s10 = __smlad(odd1, odd, __smlad(even1, even, s10));
            row += 4;
            weights += 4;
        }
#endif
        for (; left > 0; --left) {
            s00 += row[0] * weights[0];
            s01 += row[0] * weights[stride];
            s10 += row[p->size] * weights[0];
            s11 += row[p->size] * weights[stride];
            ++row;
            ++weights;
        }
        out[column] = edgec_finish_s16(p, s00, column);
        out[next] = edgec_finish_s16(p, s01, next);
        second[column] = edgec_finish_s16(p, s10, column);
        second[next] = edgec_finish_s16(p, s11, next);
    }
#endif
}

#endif
