/* Pools, means and softmax on int8, portable. */
#include "edgec_kernels.h"

typedef int8_t edgec_element;
enum { EDGEC_LOWEST = INT8_MIN, EDGEC_HIGHEST = INT8_MAX };

#include "edgec_reduce.h"

void edgec_average_pool_s8(const edgec_pool_s8_params *p, const int8_t *in, int8_t *out) {
    edgec_pool(p, in, out, 1);
}

void edgec_max_pool_s8(const edgec_pool_s8_params *p, const int8_t *in, int8_t *out) {
    edgec_pool(p, in, out, 0);
}

void edgec_mean_s8(const edgec_mean_s8_params *p, const int8_t *in, int8_t *out) {
    edgec_reduce(p, in, out, 0);
}

void edgec_sum_s8(const edgec_mean_s8_params *p, const int8_t *in, int8_t *out) {
    edgec_reduce(p, in, out, 1);
}

void edgec_reduce_max_s8(const edgec_reduce_s8_params *p, const int8_t *in, int8_t *out) {
    edgec_pick(p, in, out, 1);
}

void edgec_reduce_min_s8(const edgec_reduce_s8_params *p, const int8_t *in, int8_t *out) {
    edgec_pick(p, in, out, 0);
}

void edgec_softmax_s8(const edgec_softmax_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        int32_t most = -128;
        for (int32_t i = 0; i < p->size; ++i) {
            most = in[i] > most ? in[i] : most;
        }
        uint64_t total = 0;
        for (int32_t i = 0; i < p->size; ++i) {
            total += p->table[most - in[i]];
        }
        /* 2^48 / total; total is at least 2^24, the share of the largest element */
        const uint32_t inverse = (uint32_t)((((uint64_t)1 << 48) + total / 2) / total);
        for (int32_t i = 0; i < p->size; ++i) {
            const uint64_t share = (uint64_t)p->table[most - in[i]] * inverse;
            const int32_t value = (int32_t)((share + ((uint64_t)1 << 39)) >> 40) - 128;
            out[i] = (int8_t)edgec_clamp(value, -128, 127);
        }
        in += p->size;
        out += p->size;
    }
}
