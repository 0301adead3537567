/* Matrix products on int8, portable. */
#include <stddef.h>

#include "edgec_fixed_point.h"
#include "edgec_kernels.h"

void edgec_fully_connected_s8(
    const edgec_fully_connected_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        const int8_t *weights = p->weights;
        for (int32_t o = 0; o < p->out_size; ++o) {
            int32_t sum = p->bias != NULL ? p->bias[o] : 0;
            for (int32_t i = 0; i < p->in_size; ++i) {
                sum += (in[i] - p->in_zero) * (weights[i] - p->weight_zero);
            }
            weights += p->in_size;
            sum = edgec_scale_once(sum, p->scales.mantissa[o], p->scales.exponent[o]);
            *out++ = (int8_t)edgec_clamp(sum + p->out_zero, p->low, p->high);
        }
        in += p->in_size;
    }
}

void edgec_matmul_s8(
    const edgec_matmul_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t row = 0; row < p->rows; ++row) {
            for (int32_t column = 0; column < p->columns; ++column) {
                const int8_t *left = a + n * p->a_batch + row * p->a_row;
                const int8_t *right = b + n * p->b_batch + column * p->b_column;
                int32_t sum = 0;
                for (int32_t i = 0; i < p->inner; ++i) {
                    sum += (left[i * p->a_inner] - p->a_zero) * (right[i * p->b_inner] - p->b_zero);
                }
                sum = edgec_scale(sum, p->mantissa, p->exponent);
                *out++ = (int8_t)edgec_clamp(sum + p->out_zero, p->low, p->high);
            }
        }
    }
}
