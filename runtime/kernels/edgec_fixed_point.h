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
#if defined(__ARM_FEATURE_MVE) && defined(__GNUC__) && !defined(EDGEC_PORTABLE)
#include <arm_mve.h>
#define EDGEC_HELIUM 1
#endif

/* Loops of their own for what is known where a function is called. */
#if defined(__GNUC__)
#define EDGEC_INLINE inline __attribute__((always_inline))
#define EDGEC_APART __attribute__((noinline, unused)) /* a function of its own */
#else
#define EDGEC_INLINE inline
#define EDGEC_APART
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

/* The same for sums of 46 bits; the mantissa in two parts, so that products fit 64 bits. */
static inline int32_t edgec_scale_long(int64_t x, int32_t mantissa, int32_t exponent) {
    const int64_t low = x * (mantissa & 0x7fff) + ((int64_t)1 << (30 - exponent));
    const int64_t found = (x * (mantissa >> 15) + (low >> 15)) >> (16 - exponent);
    return (int32_t)(found < INT32_MIN ? INT32_MIN : (found > INT32_MAX ? INT32_MAX : found));
}

/* The same where `exponent` is negative, as it is in nearly every layer. |x| < 2^30. */
static inline int32_t edgec_scale_down(int32_t x, int32_t mantissa, int32_t exponent) {
    const int32_t high = edgec_doubling_high(x, mantissa);
    return (((high + (high >> 31)) >> (-1 - exponent)) + 1) >> 1;
}

/* The same rounded once: `exponent` is at most -2, any x. */
static inline int32_t edgec_scale_down_once(int32_t x, int32_t mantissa, int32_t exponent) {
    return ((edgec_high(x, mantissa) >> (-2 - exponent)) + 1) >> 1;
}

/* A multiplier whose shifts are worked out before a loop; of integers times 2^`shift`. */
typedef struct {
    int32_t mantissa, left, right, half, nudge;
} edgec_multiplier;

static inline edgec_multiplier edgec_multiplier_of(
    int32_t mantissa, int32_t exponent, int32_t shift) {
    edgec_multiplier m;
    m.mantissa = mantissa;
    m.left = shift + (exponent > 0 ? exponent : 0);
    m.right = exponent < 0 ? -exponent : 0;
    m.half = (int32_t)(((uint32_t)1 << m.right) >> 1);
    m.nudge = exponent < 0 ? -1 : 0;
    return m;
}

/* edgec_scale of x * 2^shift with such a multiplier. */
static inline int32_t edgec_multiply(const edgec_multiplier *m, int32_t x) {
    const int32_t high = edgec_doubling_high((int32_t)((uint32_t)x << m->left), m->mantissa);
    return (high + m->half + ((high >> 31) & m->nudge)) >> m->right;
}

static inline int32_t edgec_clamp(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : (x > high ? high : x);
}

/* Whether clamping is left to the type, known where a kernel is compiled: the DSP extension has an
 * instruction for it. */
typedef enum { EDGEC_LIMITS, EDGEC_WHOLE_RANGE } edgec_range;

static inline edgec_range edgec_range_of(int32_t low, int32_t high) {
#if defined(EDGEC_MULTIPLY_HIGH) && !defined(EDGEC_HELIUM)
    return low == -128 && high == 127 ? EDGEC_WHOLE_RANGE : EDGEC_LIMITS;
#else
    (void)low;
    (void)high;
    return EDGEC_LIMITS;
#endif
}

static EDGEC_INLINE int8_t edgec_clamp_s8(
    int32_t x, int32_t low, int32_t high, edgec_range range) {
#if defined(EDGEC_MULTIPLY_HIGH)
    if (range == EDGEC_WHOLE_RANGE) {
        int32_t found;
        __asm__("ssat %0, #8, %1" : "=r"(found) : "r"(x));
        return (int8_t)found;
    }
#else
    (void)range;
#endif
    return (int8_t)edgec_clamp(x, low, high);
}

#if defined(EDGEC_HELIUM)
/* edgec_scale_down of four numbers. */
static inline int32x4_t edgec_scale_down_4(int32x4_t x, int32x4_t mantissa, int32x4_t exponent) {
    x = vqrdmulhq_s32(x, mantissa);
    /* halves away from zero: one less before a shift that rounds halves upwards */
    return vrshlq_s32(vaddq_s32(x, vshrq_n_s32(x, 31)), exponent);
}

/* edgec_scale_down_once of four numbers. */
static inline int32x4_t edgec_scale_down_once_4(
    int32x4_t x, int32x4_t mantissa, int32x4_t exponent) {
    return vrshlq_s32(vmulhq_s32(x, mantissa), vaddq_n_s32(exponent, 1));
}

/* edgec_multiply of four numbers. */
static inline int32x4_t edgec_multiply_4(const edgec_multiplier *m, int32x4_t x) {
    x = vqrdmulhq_n_s32(vshlq_r_s32(x, m->left), m->mantissa);
    x = vaddq_s32(x, vandq_s32(vshrq_n_s32(x, 31), vdupq_n_s32(m->nudge)));
    return vrshlq_n_s32(x, -m->right);
}

/* Integers around the zero point, clamped. */
static inline int32x4_t edgec_clamp_4(int32x4_t x, int32_t zero, int32_t low, int32_t high) {
    x = vaddq_n_s32(x, zero);
    return vminq_s32(vmaxq_s32(x, vdupq_n_s32(low)), vdupq_n_s32(high));
}
#endif

#endif
