/* Matrix products in single precision. */
#include "edgec_kernels_f32.h"

void edgec_fully_connected_f32(
    const edgec_fully_connected_f32_params *p, const float *in, float *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        const float *weights = p->weights;
        for (int32_t o = 0; o < p->out_size; ++o) {
            float sum = p->bias[o];
            for (int32_t i = 0; i < p->in_size; ++i) {
                sum += in[i] * weights[i];
            }
            weights += p->in_size;
            *out++ = sum < p->low ? p->low : (sum > p->high ? p->high : sum);
        }
        in += p->in_size;
    }
}

void edgec_matmul_f32(
    const edgec_matmul_f32_params *p, const float *a, const float *b, float *out) {
    for (int32_t i = 0; i < p->batch[0]; ++i) {
        for (int32_t j = 0; j < p->batch[1]; ++j) {
            for (int32_t k = 0; k < p->batch[2]; ++k) {
                const float *left =
                    a + i * p->a_batch[0] + j * p->a_batch[1] + k * p->a_batch[2];
                const float *right =
                    b + i * p->b_batch[0] + j * p->b_batch[1] + k * p->b_batch[2];
                for (int32_t row = 0; row < p->rows; ++row) {
                    for (int32_t column = 0; column < p->columns; ++column) {
                        float sum = 0.0f;
                        for (int32_t n = 0; n < p->inner; ++n) {
                            sum += left[row * p->a_row + n * p->a_inner] *
                                   right[column * p->b_column + n * p->b_inner];
                        }
                        *out++ = sum;
                    }
                }
            }
        }
    }
}
