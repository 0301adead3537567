/* Sums of products of int8, the inner loop of every matrix product.
 *
 * Three forms of the same sums: plain C, the DSP extension of Armv7E-M and Armv8-M (SMLAD: two
 * products and two additions), and Helium (VMLADAVA: sixteen). Integers: all give the same bits.
 */
#ifndef EDGEC_DOT_S8_H
#define EDGEC_DOT_S8_H

#include <stdint.h>

#if defined(__ARM_FEATURE_MVE) && !defined(EDGEC_PORTABLE)
#include <arm_mve.h>
#define EDGEC_HELIUM 1
#elif defined(__ARM_FEATURE_DSP) && defined(__GNUC__) && !defined(EDGEC_PORTABLE)
#include <arm_acle.h>
#define EDGEC_SMLAD 1

/* Four bytes from any address. */
static inline uint32_t edgec_load4(const int8_t *from) {
    uint32_t word;
    __builtin_memcpy(&word, from, sizeof word);
    return word;
}

/* Bytes 0 and 2, and bytes 1 and 3, as two 16-bit integers each. */
static inline int32_t edgec_even(uint32_t word) {
    int32_t pair;
    __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(word));
    return pair;
}

static inline int32_t edgec_odd(uint32_t word) {
    int32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}
#endif

/* sums[r][c] += rows[r] . columns[c] for two rows and two columns of `size` elements. */
static inline void edgec_dot_2x2_s8(
    const int8_t *row0, const int8_t *row1, const int8_t *column0, const int8_t *column1,
    int32_t size, int32_t sums[2][2]) {
    int32_t s00 = sums[0][0];
    int32_t s01 = sums[0][1];
    int32_t s10 = sums[1][0];
    int32_t s11 = sums[1][1];
#if defined(EDGEC_HELIUM)
    int32_t left = size;
    for (; left >= 16; left -= 16) {
        const int8x16_t r0 = vldrbq_s8(row0);
        const int8x16_t r1 = vldrbq_s8(row1);
        const int8x16_t c0 = vldrbq_s8(column0);
        const int8x16_t c1 = vldrbq_s8(column1);
        s00 = vmladavaq_s8(s00, r0, c0);
        s01 = vmladavaq_s8(s01, r0, c1);
        s10 = vmladavaq_s8(s10, r1, c0);
        s11 = vmladavaq_s8(s11, r1, c1);
        row0 += 16;
        row1 += 16;
        column0 += 16;
        column1 += 16;
    }
    if (left > 0) {
        const mve_pred16_t lanes = vctp8q((uint32_t)left);
        const int8x16_t r0 = vldrbq_z_s8(row0, lanes);
        const int8x16_t r1 = vldrbq_z_s8(row1, lanes);
        const int8x16_t c0 = vldrbq_z_s8(column0, lanes);
        const int8x16_t c1 = vldrbq_z_s8(column1, lanes);
        s00 = vmladavaq_s8(s00, r0, c0);
        s01 = vmladavaq_s8(s01, r0, c1);
        s10 = vmladavaq_s8(s10, r1, c0);
        s11 = vmladavaq_s8(s11, r1, c1);
    }
#else
    int32_t i = 0;
#if defined(EDGEC_SMLAD)
    for (; i + 4 <= size; i += 4) {
        const uint32_t r0 = edgec_load4(row0 + i);
        const uint32_t r1 = edgec_load4(row1 + i);
        const uint32_t c0 = edgec_load4(column0 + i);
        const uint32_t c1 = edgec_load4(column1 + i);
        const int32_t r0_even = edgec_even(r0);
        const int32_t r1_even = edgec_even(r1);
        const int32_t c0_even = edgec_even(c0);
        const int32_t c1_even = edgec_even(c1);
        s00 = __smlad(r0_even, c0_even, s00);
        s01 = __smlad(r0_even, c1_even, s01);
        s10 = __smlad(r1_even, c0_even, s10);
        s11 = __smlad(r1_even, c1_even, s11);
        const int32_t r0_odd = edgec_odd(r0);
        const int32_t r1_odd = edgec_odd(r1);
        const int32_t c0_odd = edgec_odd(c0);
        const int32_t c1_odd = edgec_odd(c1);
        s00 = __smlad(r0_odd, c0_odd, s00);
        s01 = __smlad(r0_odd, c1_odd, s01);
        s10 = __smlad(r1_odd, c0_odd, s10);
        s11 = __smlad(r1_odd, c1_odd, s11);
    }
#endif
    for (; i < size; ++i) {
        s00 += row0[i] * column0[i];
        s01 += row0[i] * column1[i];
        s10 += row1[i] * column0[i];
        s11 += row1[i] * column1[i];
    }
#endif
    sums[0][0] = s00;
    sums[0][1] = s01;
    sums[1][0] = s10;
    sums[1][1] = s11;
}

/* sums[c] += row . columns[c] for four columns, `size` elements apart. */
static inline void edgec_dot_1x4_s8(
    const int8_t *row, const int8_t *columns, int32_t size, int32_t sums[4]) {
    const int8_t *column0 = columns;
    const int8_t *column1 = columns + size;
    const int8_t *column2 = columns + 2 * size;
    const int8_t *column3 = columns + 3 * size;
    int32_t s0 = sums[0];
    int32_t s1 = sums[1];
    int32_t s2 = sums[2];
    int32_t s3 = sums[3];
#if defined(EDGEC_HELIUM)
    int32_t left = size;
    for (; left >= 16; left -= 16) {
        const int8x16_t r = vldrbq_s8(row);
        s0 = vmladavaq_s8(s0, r, vldrbq_s8(column0));
        s1 = vmladavaq_s8(s1, r, vldrbq_s8(column1));
        s2 = vmladavaq_s8(s2, r, vldrbq_s8(column2));
        s3 = vmladavaq_s8(s3, r, vldrbq_s8(column3));
        row += 16;
        column0 += 16;
        column1 += 16;
        column2 += 16;
        column3 += 16;
    }
    if (left > 0) {
        const mve_pred16_t lanes = vctp8q((uint32_t)left);
        const int8x16_t r = vldrbq_z_s8(row, lanes);
        s0 = vmladavaq_s8(s0, r, vldrbq_z_s8(column0, lanes));
        s1 = vmladavaq_s8(s1, r, vldrbq_z_s8(column1, lanes));
        s2 = vmladavaq_s8(s2, r, vldrbq_z_s8(column2, lanes));
        s3 = vmladavaq_s8(s3, r, vldrbq_z_s8(column3, lanes));
    }
#else
    int32_t i = 0;
#if defined(EDGEC_SMLAD)
    for (; i + 4 <= size; i += 4) {
        const uint32_t r = edgec_load4(row + i);
        const int32_t even = edgec_even(r);
        const int32_t odd = edgec_odd(r);
        const uint32_t c0 = edgec_load4(column0 + i);
        const uint32_t c1 = edgec_load4(column1 + i);
        const uint32_t c2 = edgec_load4(column2 + i);
        const uint32_t c3 = edgec_load4(column3 + i);
        s0 = __smlad(odd, edgec_odd(c0), __smlad(even, edgec_even(c0), s0));
        s1 = __smlad(odd, edgec_odd(c1), __smlad(even, edgec_even(c1), s1));
        s2 = __smlad(odd, edgec_odd(c2), __smlad(even, edgec_even(c2), s2));
        s3 = __smlad(odd, edgec_odd(c3), __smlad(even, edgec_even(c3), s3));
    }
#endif
    for (; i < size; ++i) {
        s0 += row[i] * column0[i];
        s1 += row[i] * column1[i];
        s2 += row[i] * column2[i];
        s3 += row[i] * column3[i];
    }
#endif
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

/* sum + row . column. */
static inline int32_t edgec_dot_s8(
    const int8_t *row, const int8_t *column, int32_t size, int32_t sum) {
#if defined(EDGEC_HELIUM)
    int32_t left = size;
    for (; left >= 16; left -= 16) {
        sum = vmladavaq_s8(sum, vldrbq_s8(row), vldrbq_s8(column));
        row += 16;
        column += 16;
    }
    if (left > 0) {
        const mve_pred16_t lanes = vctp8q((uint32_t)left);
        sum = vmladavaq_s8(sum, vldrbq_z_s8(row, lanes), vldrbq_z_s8(column, lanes));
    }
#else
    int32_t i = 0;
#if defined(EDGEC_SMLAD)
    for (; i + 4 <= size; i += 4) {
        const uint32_t r = edgec_load4(row + i);
        const uint32_t c = edgec_load4(column + i);
        sum = __smlad(edgec_even(r), edgec_even(c), sum);
        sum = __smlad(edgec_odd(r), edgec_odd(c), sum);
    }
#endif
    for (; i < size; ++i) {
        sum += row[i] * column[i];
    }
#endif
    return sum;
}

#endif
