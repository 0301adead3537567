/* Sums of products of int8, the inner loop of every matrix product.
 *
 * Three forms of the same sums: plain C, the DSP extension of Armv7E-M and Armv8-M (SMLAD: two
 * products and two additions), and Helium (VMLADAVA: sixteen). Integers: all give the same bits.
 */
#ifndef EDGEC_DOT_S8_H
#define EDGEC_DOT_S8_H

#include <stdint.h>
#include <string.h>

#include "edgec_fixed_point.h"

#if !defined(EDGEC_HELIUM) && defined(EDGEC_MULTIPLY_HIGH)
#include <arm_acle.h>
#define EDGEC_SMLAD 1

/* Memory that is written and read as other types too. */
typedef int32_t __attribute__((may_alias)) edgec_word;

/* Loads stay where they are: compilers move them to the front of a loop, and run out of registers. */
#define EDGEC_KEEP_ORDER() __asm__ volatile("" ::: "memory")

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

/* memcpy, without the call where that costs more than the bytes. */
static inline void edgec_copy_s8(int8_t *to, const int8_t *from, int32_t size) {
#if defined(EDGEC_HELIUM)
    __asm__ volatile(
        "wlstp.8 lr, %[size], 2f\n"
        "1:\n"
        "vldrb.8 q0, [%[from]], #16\n"
        "vstrb.8 q0, [%[to]], #16\n"
        "letp lr, 1b\n"
        "2:\n"
        : [to] "+r"(to), [from] "+r"(from)
        : [size] "r"(size)
        : "q0", "lr", "memory");
#else
    memcpy(to, from, (size_t)size);
#endif
}

#if defined(EDGEC_HELIUM)
/* row . columns[c] for four columns, `stride` elements apart. */
static inline int32x4_t edgec_dot_4_s8(
    const int8_t *row, const int8_t *columns, int32_t stride, int32_t size) {
    const int8_t *column1 = columns + stride;
    const int8_t *column2 = columns + 2 * stride;
    const int8_t *column3 = columns + 3 * stride;
    int32_t s0 = 0;
    int32_t s1 = 0;
    int32_t s2 = 0;
    int32_t s3 = 0;
    /* compilers do not make loops of this kind, whose last turn takes what is left, from
     * intrinsics */
    register int32_t left __asm__("lr") = size;
    __asm__ volatile(
        "wlstp.8 lr, %[left], 2f\n"
        "1:\n"
        "vldrb.8 q0, [%[row]], #16\n"
        "vldrb.8 q1, [%[c0]], #16\n"
        "vldrb.8 q2, [%[c1]], #16\n"
        "vmladava.s8 %[s0], q0, q1\n"
        "vldrb.8 q3, [%[c2]], #16\n"
        "vmladava.s8 %[s1], q0, q2\n"
        "vldrb.8 q1, [%[c3]], #16\n"
        "vmladava.s8 %[s2], q0, q3\n"
        "vmladava.s8 %[s3], q0, q1\n"
        "letp lr, 1b\n"
        "2:\n"
        : [row] "+r"(row), [c0] "+r"(columns), [c1] "+r"(column1), [c2] "+r"(column2),
          [c3] "+r"(column3), [s0] "+Te"(s0), [s1] "+Te"(s1), [s2] "+Te"(s2), [s3] "+Te"(s3),
          [left] "+r"(left)
        :
        : "q0", "q1", "q2", "q3", "memory");
    const int32x4_t sums = {s0, s1, s2, s3};
    return sums;
}
#else
/* sums[c] += row . columns[c] for four columns, `stride` elements apart. */
static EDGEC_APART void edgec_dot_1x4_s8(
    const int8_t *row, const int8_t *columns, int32_t stride, int32_t size, int32_t sums[4]) {
    /* two pointers and the stride reach four columns: registers are scarce */
    const int8_t *pair = columns + 2 * stride;
    int32_t s0 = sums[0];
    int32_t s1 = sums[1];
    int32_t s2 = sums[2];
    int32_t s3 = sums[3];
    int32_t left = size;
#if defined(EDGEC_SMLAD)
    /* each word is loaded while the one before it is multiplied */
    const int8_t *const whole = row + (size & ~3);
    while (row != whole) {
        uint32_t c = edgec_load4(columns + stride);
        const uint32_t r = edgec_load4(row);
        uint32_t next = edgec_load4(columns);
        const int32_t even = edgec_even(r);
        const int32_t odd = edgec_odd(r);
        EDGEC_KEEP_ORDER();
        s1 = __smlad(even, edgec_even(c), s1);
        s1 = __smlad(odd, edgec_odd(c), s1);
        c = edgec_load4(pair + stride);
        EDGEC_KEEP_ORDER();
        s0 = __smlad(even, edgec_even(next), s0);
        s0 = __smlad(odd, edgec_odd(next), s0);
        next = edgec_load4(pair);
        EDGEC_KEEP_ORDER();
        s3 = __smlad(even, edgec_even(c), s3);
        s3 = __smlad(odd, edgec_odd(c), s3);
        s2 = __smlad(even, edgec_even(next), s2);
        s2 = __smlad(odd, edgec_odd(next), s2);
        row += 4;
        columns += 4;
        pair += 4;
    }
    left = size & 3;
#endif
    for (; left > 0; --left) {
        s0 += *row * *columns;
        s1 += *row * columns[stride];
        s2 += *row * *pair;
        s3 += *row * pair[stride];
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

/* sum + row . column. */
static inline int32_t edgec_dot_s8(
    const int8_t *row, const int8_t *column, int32_t size, int32_t sum) {
#if defined(EDGEC_HELIUM)
    __asm__ volatile(
        "wlstp.8 lr, %[size], 2f\n"
        "1:\n"
        "vldrb.8 q0, [%[row]], #16\n"
        "vldrb.8 q1, [%[column]], #16\n"
        "vmladava.s8 %[sum], q0, q1\n"
        "letp lr, 1b\n"
        "2:\n"
        : [row] "+r"(row), [column] "+r"(column), [sum] "+Te"(sum)
        : [size] "r"(size)
        : "q0", "q1", "lr", "memory");
#else
    for (int32_t i = 0; i < size; ++i) {
        sum += row[i] * column[i];
    }
#endif
    return sum;
}

/* The sum of a row. */
static inline int32_t edgec_total_s8(const int8_t *row, int32_t size) {
    int32_t sum = 0;
    int32_t i = 0;
#if defined(EDGEC_HELIUM)
    for (; i + 16 <= size; i += 16) {
        sum = vaddvaq_s8(sum, vldrbq_s8(row + i));
    }
#elif defined(EDGEC_SMLAD)
    for (; i + 4 <= size; i += 4) {
        const uint32_t r = edgec_load4(row + i);
        sum = __smlad(edgec_even(r), 0x00010001, __smlad(edgec_odd(r), 0x00010001, sum));
    }
#endif
    for (; i < size; ++i) {
        sum += row[i];
    }
    return sum;
}

/* Longer rows are taken one by one: memory for pairs is a part of the arena. */
#define EDGEC_MOST_PAIRED 640

/* Two rows for edgec_dot_2x2_s8: each is put where edgec_pair_place says, then edgec_pair_ready is
 * called, one row after the other.
 *
 * With SMLAD they are widened to 16 bits once instead of in every product: bytes 0 and 2, then 1 and
 * 3 of four elements of the first row, then of the second; what is left, an element of each at a
 * time. The memory is aligned to 4 bytes.
 */
static inline int8_t *edgec_pair_place(int8_t *rows, int32_t size, int32_t row) {
#if defined(EDGEC_SMLAD)
    (void)row;
    return rows + 4 * size;
#else
    return rows + row * size;
#endif
}

static inline void edgec_pair_ready(int8_t *rows, int32_t size, int32_t row) {
#if defined(EDGEC_SMLAD)
    edgec_word *to = (edgec_word *)(void *)rows + 2 * row;
    const int8_t *from = rows + 4 * size;
    int32_t left = size;
    for (; left >= 4; left -= 4) {
        const uint32_t word = edgec_load4(from);
        to[0] = edgec_even(word);
        to[1] = edgec_odd(word);
        to += 4;
        from += 4;
    }
    int8_t *single = (int8_t *)(to - 2 * row) + 2 * row;
    for (; left > 0; --left) {
        const int16_t wide = *from++;
        __builtin_memcpy(single, &wide, sizeof wide);
        single += 4;
    }
#else
    (void)rows;
    (void)size;
    (void)row;
#endif
}

#if !defined(EDGEC_HELIUM)
/* sums[r][c] += row r . column c for two rows made ready, and columns `stride` elements apart. */
static inline void edgec_dot_2x2_s8(
    const int8_t *rows, const int8_t *column, int32_t stride, int32_t size, int32_t sums[2][2]) {
    int32_t s00 = sums[0][0];
    int32_t s01 = sums[0][1];
    int32_t s10 = sums[1][0];
    int32_t s11 = sums[1][1];
#if defined(EDGEC_SMLAD)
    const edgec_word *pair = (const edgec_word *)(const void *)rows;
    const edgec_word *const whole = pair + (size & ~3);
    while (pair != whole) {
        uint32_t c = edgec_load4(column + stride);
        int32_t even = edgec_even(c);
        int32_t odd = edgec_odd(c);
        const int32_t r0_even = pair[0];
        const int32_t r0_odd = pair[1];
        const int32_t r1_even = pair[2];
        const int32_t r1_odd = pair[3];
        s01 = __smlad(r0_even, even, s01);
        s11 = __smlad(r1_even, even, s11);
        s01 = __smlad(r0_odd, odd, s01);
        s11 = __smlad(r1_odd, odd, s11);
        c = edgec_load4(column);
        even = edgec_even(c);
        odd = edgec_odd(c);
        s00 = __smlad(r0_even, even, s00);
        s10 = __smlad(r1_even, even, s10);
        s00 = __smlad(r0_odd, odd, s00);
        s10 = __smlad(r1_odd, odd, s10);
        column += 4;
        pair += 4;
    }
    for (int32_t left = size & 3; left > 0; --left) {
        s00 = __smlabb(*pair, *column, s00);
        s10 = __smlatb(*pair, *column, s10);
        s01 = __smlabb(*pair, column[stride], s01);
        s11 = __smlatb(*pair, column[stride], s11);
        ++column;
        ++pair;
    }
#else
    for (int32_t i = 0; i < size; ++i) {
        s00 += rows[i] * column[i];
        s01 += rows[i] * column[stride + i];
        s10 += rows[size + i] * column[i];
        s11 += rows[size + i] * column[stride + i];
    }
#endif
    sums[0][0] = s00;
    sums[0][1] = s01;
    sums[1][0] = s10;
    sums[1][1] = s11;
}
#endif

#endif
