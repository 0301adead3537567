/* Pools, means and softmax on int16. */
#include "edgec_interpolate_s16.h"
#include "edgec_kernels_s16.h"

typedef int16_t edgec_element;
enum { EDGEC_LOWEST = INT16_MIN, EDGEC_HIGHEST = INT16_MAX };

#include "edgec_reduce.h"

void edgec_average_pool_s16(const edgec_pool_s8_params *p, const int16_t *in, int16_t *out) {
    edgec_pool(p, in, out, 1);
}

void edgec_max_pool_s16(const edgec_pool_s8_params *p, const int16_t *in, int16_t *out) {
    edgec_pool(p, in, out, 0);
}

void edgec_mean_s16(const edgec_mean_s8_params *p, const int16_t *in, int16_t *out) {
    edgec_reduce(p, in, out, 0);
}

void edgec_sum_s16(const edgec_mean_s8_params *p, const int16_t *in, int16_t *out) {
    edgec_reduce(p, in, out, 1);
}

void edgec_reduce_max_s16(const edgec_reduce_s8_params *p, const int16_t *in, int16_t *out) {
    edgec_pick(p, in, out, 1);
}

void edgec_reduce_min_s16(const edgec_reduce_s8_params *p, const int16_t *in, int16_t *out) {
    edgec_pick(p, in, out, 0);
}

void edgec_softmax_s16(const edgec_softmax_s16_params *p, const int16_t *in, int16_t *out) {
    const edgec_multiplier scale = edgec_multiplier_of(p->mantissa, p->exponent, 0);
    for (int32_t row = 0; row < p->rows; ++row) {
        int32_t most = INT16_MIN;
        for (int32_t i = 0; i < p->size; ++i) {
            most = in[i] > most ? in[i] : most;
        }
        int32_t total = 0;
        for (int32_t i = 0; i < p->size; ++i) {
            const int32_t near = edgec_multiply(&scale, in[i] - most) + INT16_MAX;
            const int32_t place = edgec_clamp(near, INT16_MIN, INT16_MAX);
            out[i] = (int16_t)edgec_interpolated(p->exponentials, place);
            total += out[i];
        }
        /* total is (1 + x) * 2^right; the largest element alone is 2^15 - 1 */
        int32_t right = 14;
        while (total >> right > 1) {
            ++right;
        }
        const uint32_t fraction = (((uint32_t)total << (30 - right)) + (1u << 13)) >> 14;
        const int32_t place = edgec_clamp((int32_t)fraction - (3 << 15), INT16_MIN, INT16_MAX);
        const int32_t inverse = edgec_interpolated(p->reciprocals, place);
        const int32_t half = (int32_t)((uint32_t)1 << (right - 1));
        for (int32_t i = 0; i < p->size; ++i) {
            out[i] = (int16_t)edgec_clamp((out[i] * inverse + half) >> right, 0, INT16_MAX);
        }
        in += p->size;
        out += p->size;
    }
}
