/* Between int8 and int16, where a network has both. */
#include "edgec_fixed_point.h"
#include "edgec_kernels_s16.h"

void edgec_widen_s16(const edgec_convert_s16_params *p, const int8_t *in, int16_t *out) {
    const edgec_multiplier scale = edgec_multiplier_of(p->mantissa, p->exponent, 0);
    const int32_t count = p->count;
    const int32_t zero = p->zero;
    for (int32_t i = 0; i < count; ++i) {
        const int32_t scaled = edgec_multiply(&scale, in[i] - zero);
        out[i] = (int16_t)edgec_clamp(scaled, INT16_MIN, INT16_MAX);
    }
}

void edgec_narrow_s16(const edgec_convert_s16_params *p, const int16_t *in, int8_t *out) {
    const edgec_multiplier scale = edgec_multiplier_of(p->mantissa, p->exponent, 0);
    const int32_t count = p->count;
    const int32_t zero = p->zero;
    for (int32_t i = 0; i < count; ++i) {
        const int32_t scaled = edgec_multiply(&scale, in[i]);
        out[i] = (int8_t)edgec_clamp(scaled + zero, INT8_MIN, INT8_MAX);
    }
}
