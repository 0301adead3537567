/* Between integers and single precision. */
#include "edgec_kernels_f32.h"

/* The nearest integer from `low` to `high`; what is far outside, and NaN, is cut before it is an
 * integer. */
static inline int32_t quantized(
    const edgec_quantize_f32_params *p, float x, float far, int32_t low, int32_t high) {
    const float steps = x / p->scale;
    const float cut = steps > -far ? (steps < far ? steps : far) : -far;
    const int32_t integer = (int32_t)(cut + (cut < 0.0f ? -0.5f : 0.5f)) + p->zero;
    return integer < low ? low : (integer > high ? high : integer);
}

void edgec_quantize_f32(const edgec_quantize_f32_params *p, const float *in, int8_t *out) {
    for (int32_t i = 0; i < p->count; ++i) {
        out[i] = (int8_t)quantized(p, in[i], 512.0f, -128, 127);
    }
}

void edgec_dequantize_f32(const edgec_quantize_f32_params *p, const int8_t *in, float *out) {
    for (int32_t i = 0; i < p->count; ++i) {
        out[i] = (float)(in[i] - p->zero) * p->scale;
    }
}

void edgec_quantize_s16_f32(const edgec_quantize_f32_params *p, const float *in, int16_t *out) {
    for (int32_t i = 0; i < p->count; ++i) {
        out[i] = (int16_t)quantized(p, in[i], 131072.0f, -32768, 32767);
    }
}

void edgec_dequantize_s16_f32(const edgec_quantize_f32_params *p, const int16_t *in, float *out) {
    for (int32_t i = 0; i < p->count; ++i) {
        out[i] = (float)(in[i] - p->zero) * p->scale;
    }
}
