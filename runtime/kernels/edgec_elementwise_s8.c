/* Element by element on int8, portable. */
#include "edgec_fixed_point.h"
#include "edgec_kernels.h"

typedef int32_t (*combine)(const edgec_binary_s8_params *p, int32_t a, int32_t b);

static int32_t aligned(int32_t x, int32_t shift, int32_t mantissa, int32_t exponent) {
    return edgec_scale(x * ((int32_t)1 << shift), mantissa, exponent);
}

static int32_t sum_of(const edgec_binary_s8_params *p, int32_t a, int32_t b) {
    return aligned(a, p->shift, p->a_mantissa, p->a_exponent) +
           aligned(b, p->shift, p->b_mantissa, p->b_exponent);
}

static int32_t difference_of(const edgec_binary_s8_params *p, int32_t a, int32_t b) {
    return aligned(a, p->shift, p->a_mantissa, p->a_exponent) -
           aligned(b, p->shift, p->b_mantissa, p->b_exponent);
}

static int32_t product_of(const edgec_binary_s8_params *p, int32_t a, int32_t b) {
    (void)p;
    return a * b;
}

static int32_t squared_difference_of(const edgec_binary_s8_params *p, int32_t a, int32_t b) {
    const int32_t difference = difference_of(p, a, b);
    return difference * difference;
}

static int32_t larger_of(const edgec_binary_s8_params *p, int32_t a, int32_t b) {
    (void)p;
    return a > b ? a : b;
}

static int32_t smaller_of(const edgec_binary_s8_params *p, int32_t a, int32_t b) {
    (void)p;
    return a < b ? a : b;
}

/* The operation is known at every call below, so that compilers make a loop of its own for it. */
static inline void run(
    const edgec_binary_s8_params *given, const int8_t *a, const int8_t *b, int8_t *out,
    combine op) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_binary_s8_params copy = *given;
    const edgec_binary_s8_params *const p = &copy;
    for (int32_t i = 0; i < p->shape[0]; ++i) {
        for (int32_t j = 0; j < p->shape[1]; ++j) {
            for (int32_t k = 0; k < p->shape[2]; ++k) {
                const int8_t *x = a + i * p->a_stride[0] + j * p->a_stride[1] + k * p->a_stride[2];
                const int8_t *y = b + i * p->b_stride[0] + j * p->b_stride[1] + k * p->b_stride[2];
                for (int32_t l = 0; l < p->shape[3]; ++l) {
                    const int32_t raw = op(p, *x - p->a_zero, *y - p->b_zero);
                    const int32_t scaled = edgec_scale(raw, p->out_mantissa, p->out_exponent);
                    *out++ = (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
                    x += p->a_stride[3];
                    y += p->b_stride[3];
                }
            }
        }
    }
}

void edgec_add_s8(const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, sum_of);
}

void edgec_sub_s8(const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, difference_of);
}

void edgec_mul_s8(const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, product_of);
}

void edgec_squared_difference_s8(
    const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, squared_difference_of);
}

void edgec_maximum_s8(
    const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, larger_of);
}

void edgec_minimum_s8(
    const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, smaller_of);
}

void edgec_lookup_s8(const edgec_lookup_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t i = 0; i < p->count; ++i) {
        out[i] = p->table[in[i] + 128];
    }
}
