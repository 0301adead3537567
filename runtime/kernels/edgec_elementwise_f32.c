/* Element by element in single precision. */
#include "edgec_kernels_f32.h"
#include "edgec_math_f32.h"

typedef float (*one)(float x, float alpha);
typedef float (*two)(float a, float b);

static inline float within(float x, float low, float high) {
    return x < low ? low : (x > high ? high : x);
}

static inline void each(const edgec_unary_f32_params *p, const float *in, float *out, one of) {
    for (int32_t i = 0; i < p->count; ++i) {
        out[i] = of(in[i], p->alpha);
    }
}

static inline void pairs(
    const edgec_binary_f32_params *p, const float *a, const float *b, float *out, two of) {
    for (int32_t i = 0; i < p->shape[0]; ++i) {
        for (int32_t j = 0; j < p->shape[1]; ++j) {
            for (int32_t k = 0; k < p->shape[2]; ++k) {
                const float *x = a + i * p->a_stride[0] + j * p->a_stride[1] + k * p->a_stride[2];
                const float *y = b + i * p->b_stride[0] + j * p->b_stride[1] + k * p->b_stride[2];
                for (int32_t l = 0; l < p->shape[3]; ++l) {
                    *out++ = within(
                        of(x[l * p->a_stride[3]], y[l * p->b_stride[3]]), p->low, p->high);
                }
            }
        }
    }
}

/* The function of an element, and the kernel that applies it to all. */
#define UNARY(name, value)                                                                        \
    static float name##_of(float x, float alpha) {                                                \
        (void)alpha;                                                                              \
        return value;                                                                             \
    }                                                                                             \
    void edgec_##name##_f32(const edgec_unary_f32_params *p, const float *in, float *out) {       \
        each(p, in, out, name##_of);                                                              \
    }

#define BINARY(name, value)                                                                       \
    static float name##_of(float a, float b) { return value; }                                    \
    void edgec_##name##_f32(                                                                      \
        const edgec_binary_f32_params *p, const float *a, const float *b, float *out) {           \
        pairs(p, a, b, out, name##_of);                                                           \
    }

BINARY(add, a + b)
BINARY(sub, a - b)
BINARY(mul, a * b)
BINARY(div, a / b)
BINARY(pow, powf(a, b))
BINARY(maximum, a > b ? a : b)
BINARY(minimum, a < b ? a : b)
BINARY(squared_difference, (a - b) * (a - b))
BINARY(prelu, a > 0.0f ? a : a * b)

UNARY(abs, fabsf(x))
UNARY(neg, -x)
UNARY(exp, edgec_exp(x))
UNARY(log, edgec_log(x))
UNARY(sqrt, sqrtf(x))
UNARY(rsqrt, 1.0f / sqrtf(x))
UNARY(sin, sinf(x))
UNARY(cos, cosf(x))
UNARY(floor, floorf(x))
UNARY(ceil, ceilf(x))
UNARY(sigmoid, edgec_sigmoid(x))
UNARY(tanh, edgec_tanh(x))
UNARY(gelu, 0.5f * x * (1.0f + edgec_erf(x * 0.70710678f)))
UNARY(gelu_tanh, 0.5f * x * (1.0f + edgec_tanh(0.79788456f * (x + 0.044715f * x * x * x))))
UNARY(hard_swish, x * within(x + 3.0f, 0.0f, 6.0f) / 6.0f)
UNARY(relu, x > 0.0f ? x : 0.0f)
UNARY(relu6, within(x, 0.0f, 6.0f))
UNARY(elu, x > 0.0f ? x : edgec_exp(x) - 1.0f)
UNARY(leaky_relu, x > 0.0f ? x : x * alpha)
