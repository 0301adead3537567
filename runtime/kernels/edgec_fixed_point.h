/* Scales as integers: multiplication by a real number in 32-bit fixed point.
 *
 * The arithmetic of the TFLite 8-bit quantization specification, from gemmlowp (Jacob et al. 2018,
 * arXiv:1712.05877): mantissa in [2^30, 2^31) or 0, value = mantissa * 2^(exponent - 31).
 */
#ifndef EDGEC_FIXED_POINT_H
#define EDGEC_FIXED_POINT_H

#include <stdint.h>

/* what right shifts of negative numbers do is the compiler's choice; this is the one we need */
typedef char edgec_needs_arithmetic_shifts[((-5) >> 1) == -3 ? 1 : -1];

#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__) && !defined(EDGEC_PORTABLE)
#define EDGEC_MULTIPLY_HIGH 1
#endif

/* The upper half of 2*a*b, rounded to nearest, halves upwards. |a| < 2^30. */
static inline int32_t edgec_doubling_high(int32_t a, int32_t b) {
#if defined(EDGEC_MULTIPLY_HIGH)
    int32_t high;
    __asm__("smmulr %0, %1, %2" : "=r"(high) : "r"((int32_t)((uint32_t)a << 1)), "r"(b));
    return high;
#else
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
#endif
}

/* The upper half of a*b, rounded down. */
static inline int32_t edgec_high(int32_t a, int32_t b) {
#if defined(EDGEC_MULTIPLY_HIGH)
    int32_t high;
    __asm__("smmul %0, %1, %2" : "=r"(high) : "r"(a), "r"(b));
    return high;
#else
    return (int32_t)(((int64_t)a * b) >> 32);
#endif
}

/* x / 2^amount, rounded to nearest, halves away from zero; amount in [0, 31], |x| < 2^30. */
static inline int32_t edgec_shift_right(int32_t x, int32_t amount) {
    const int32_t half = (int32_t)((((uint32_t)1) << amount) >> 1);
    return (x + half + (amount != 0 ? x >> 31 : 0)) >> amount;
}

/* Multiply and round twice, as the kernels of convolutions and elementwise operators do.
 *
 * |x| < 2^30, and less by the exponent where that is positive; the writer of the C checks it and
 * sets `wide` where it does not hold (biases of channels with tiny weights).
 */
static inline int32_t edgec_scale(int32_t x, int32_t mantissa, int32_t exponent) {
    if (exponent > 0) {
        return edgec_doubling_high((int32_t)((uint32_t)x << exponent), mantissa);
    }
    return edgec_shift_right(edgec_doubling_high(x, mantissa), -exponent);
}

/* The same for any x that the shift to the left leaves in 32 bits; slower. */
static inline int32_t edgec_scale_wide(int32_t x, int32_t mantissa, int32_t exponent) {
    const int32_t left = exponent > 0 ? exponent : 0;
    const int64_t product = (int64_t)(int32_t)((uint32_t)x << left) * mantissa;
    const int64_t high = (product + ((int64_t)1 << 30)) >> 31;
    const int32_t right = exponent > 0 ? 0 : -exponent;
    const int64_t half = (((int64_t)1) << right) >> 1;
    return (int32_t)((high + half + (right != 0 && high < 0 ? -1 : 0)) >> right);
}

/* Multiply and round once, halves upwards, as FULLY_CONNECTED does. */
static inline int32_t edgec_scale_once(int32_t x, int32_t mantissa, int32_t exponent) {
    const int32_t right = -1 - exponent; /* after the upper half is taken */
    if (right >= 1) {
        return (edgec_high(x, mantissa) + (int32_t)((uint32_t)1 << (right - 1))) >> right;
    }
    return (int32_t)(((int64_t)x * mantissa + ((int64_t)1 << (30 - exponent))) >> (31 - exponent));
}

static inline int32_t edgec_clamp(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : (x > high ? high : x);
}

#endif
