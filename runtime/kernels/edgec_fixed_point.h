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

/* The upper half of 2*a*b, rounded to nearest, halves upwards. */
static inline int32_t edgec_doubling_high(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* x / 2^amount, rounded to nearest, halves away from zero; amount in [0, 31]. */
static inline int32_t edgec_shift_right(int32_t x, int32_t amount) {
    const int32_t mask = (int32_t)((((uint32_t)1) << amount) - 1u);
    const int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
    return (x >> amount) + ((x & mask) > threshold ? 1 : 0);
}

/* Multiply and round twice, as the kernels of convolutions and elementwise operators do. */
static inline int32_t edgec_scale(int32_t x, int32_t mantissa, int32_t exponent) {
    const int32_t left = exponent > 0 ? exponent : 0;
    const int32_t right = exponent > 0 ? 0 : -exponent;
    const int32_t shifted = (int32_t)((uint32_t)x << left);
    return edgec_shift_right(edgec_doubling_high(shifted, mantissa), right);
}

/* Multiply and round once, halves upwards, as FULLY_CONNECTED does. */
static inline int32_t edgec_scale_once(int32_t x, int32_t mantissa, int32_t exponent) {
    const int32_t right = 31 - exponent;
    return (int32_t)(((int64_t)x * mantissa + ((int64_t)1 << (right - 1))) >> right);
}

static inline int32_t edgec_clamp(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : (x > high ? high : x);
}

#endif
