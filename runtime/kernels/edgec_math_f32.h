/* Functions of one float by additions, multiplications and divisions alone.
 *
 * The C library's differ in their last bits from one library to the next; a float that is rounded to
 * an integer afterwards would then depend on it. These give the same bits on every machine with IEEE
 * single precision and a compiler that does not contract (-std=c99, or -ffp-contract=off). Errors are
 * below 2e-7, relative for exponentials and absolute for the rest. Subnormal results are zero.
 */
#ifndef EDGEC_MATH_F32_H
#define EDGEC_MATH_F32_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* 2^n for n from -126 to 127. */
static inline float edgec_power_of_two(int32_t n) {
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float found;
    memcpy(&found, &bits, sizeof found);
    return found;
}

/* x = n ln 2 + r; the Taylor series of exp(r) ends after r^7, |r| < 0.35. */
static inline float edgec_exp(float x) {
    if (!(x > -87.0f)) {
        return x <= -87.0f ? 0.0f : x;
    }
    if (x > 88.72f) {
        return INFINITY;
    }
    const int32_t n = (int32_t)(x * 1.44269504f + (x < 0.0f ? -0.5f : 0.5f));
    /* ln 2 in two parts, the first of nine bits, so that its product is exact */
    const float r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    float sum = 1.98412698e-4f;
    sum = sum * r + 1.38888889e-3f;
    sum = sum * r + 8.33333333e-3f;
    sum = sum * r + 4.16666667e-2f;
    sum = sum * r + 1.66666667e-1f;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    /* in two steps: 2^128 has no float */
    return sum * edgec_power_of_two(n / 2) * edgec_power_of_two(n - n / 2);
}

/* x = 2^n m with m around 1; ln m = 2 artanh s with s = (m - 1) / (m + 1). Subnormal x count as 0. */
static inline float edgec_log(float x) {
    if (!(x >= 1.17549435e-38f)) {
        return x >= 0.0f ? -INFINITY : NAN;
    }
    if (x > 3.40282347e38f) {
        return x;
    }
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* m from 0.75 to 1.5 */
    const int32_t n = (int32_t)((bits + 0x00400000u) >> 23) - 127;
    const float m = x * edgec_power_of_two(-n / 2) * edgec_power_of_two(-n - -n / 2);
    const float s = (m - 1.0f) / (m + 1.0f);
    const float square = s * s;
    float sum = 1.11111111e-1f;
    sum = sum * square + 1.42857143e-1f;
    sum = sum * square + 0.2f;
    sum = sum * square + 3.33333333e-1f;
    const float part = 2.0f * s + 2.0f * s * square * sum;
    return (float)n * 0.693359375f + (part - (float)n * 2.12194440e-4f);
}

static inline float edgec_sigmoid(float x) { return 1.0f / (1.0f + edgec_exp(-x)); }

static inline float edgec_tanh(float x) {
    const float size = x < 0.0f ? -x : x;
    if (size < 0.25f) {
        const float square = x * x;
        float sum = 2.18694885e-2f;
        sum = sum * square - 5.39682540e-2f;
        sum = sum * square + 1.33333333e-1f;
        sum = sum * square - 3.33333333e-1f;
        return x + x * square * sum;
    }
    const float found = 1.0f - 2.0f / (edgec_exp(2.0f * size) + 1.0f);
    return x < 0.0f ? -found : found;
}

/* The Taylor series up to 1; from there on Abramowitz and Stegun, 7.1.26. */
static inline float edgec_erf(float x) {
    const float size = x < 0.0f ? -x : x;
    const float square = x * x;
    if (size < 1.0f) {
        float sum = 1.48071928e-8f;
        sum = sum * square - 1.63658447e-7f;
        sum = sum * square + 1.64621144e-6f;
        sum = sum * square - 1.49256504e-5f;
        sum = sum * square + 1.20553330e-4f;
        sum = sum * square - 8.54832702e-4f;
        sum = sum * square + 5.22397763e-3f;
        sum = sum * square - 2.68661706e-2f;
        sum = sum * square + 1.12837917e-1f;
        sum = sum * square - 3.76126389e-1f;
        sum = sum * square + 1.12837917f;
        return x * sum;
    }
    const float t = 1.0f / (1.0f + 0.3275911f * size);
    float sum = 1.061405429f;
    sum = sum * t - 1.453152027f;
    sum = sum * t + 1.421413741f;
    sum = sum * t - 0.284496736f;
    sum = sum * t + 0.254829592f;
    const float found = 1.0f - sum * t * edgec_exp(-square);
    return x < 0.0f ? -found : found;
}

#endif
