/* Between integers and single precision. */
#include "edgec_kernels_f32.h"

void edgec_quantize_f32(const edgec_quantize_f32_params *p, const float *in, int8_t *out) {
    for (int32_t i = 0; i < p->count; ++i) {
        const float steps = in[i] / p->scale;
        /* what is far outside is cut before it becomes an integer; so is NaN */
        const float cut = steps > -512.0f ? (steps < 512.0f ? steps : 512.0f) : -512.0f;
        const int32_t integer = (int32_t)(cut + (cut < 0.0f ? -0.5f : 0.5f)) + p->zero;
        out[i] = (int8_t)(integer < -128 ? -128 : (integer > 127 ? 127 : integer));
    }
}

void edgec_dequantize_f32(const edgec_quantize_f32_params *p, const int8_t *in, float *out) {
    for (int32_t i = 0; i < p->count; ++i) {
        out[i] = (float)(in[i] - p->zero) * p->scale;
    }
}
