/* Pools, means and softmax on int8, portable. */
#include "edgec_fixed_point.h"
#include "edgec_kernels.h"
#include "edgec_window.h"

void edgec_average_pool_s8(const edgec_pool_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            for (int32_t x = 0; x < p->out_w; ++x) {
                const edgec_span s = edgec_span_of(p, y, x);
                const int32_t count = (s.bottom - s.top) * (s.right - s.left);
                for (int32_t c = 0; c < p->channels; ++c) {
                    int32_t sum = 0;
                    for (int32_t row = s.top; row < s.bottom; ++row) {
                        for (int32_t column = s.left; column < s.right; ++column) {
                            sum += in[(row * p->in_w + column) * p->channels + c];
                        }
                    }
                    sum = (sum + (sum > 0 ? count / 2 : -(count / 2))) / count;
                    *out++ = (int8_t)edgec_clamp(sum, p->low, p->high);
                }
            }
        }
        in += p->in_h * p->in_w * p->channels;
    }
}

void edgec_max_pool_s8(const edgec_pool_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            for (int32_t x = 0; x < p->out_w; ++x) {
                const edgec_span s = edgec_span_of(p, y, x);
                for (int32_t c = 0; c < p->channels; ++c) {
                    int32_t most = -128;
                    for (int32_t row = s.top; row < s.bottom; ++row) {
                        for (int32_t column = s.left; column < s.right; ++column) {
                            const int32_t v = in[(row * p->in_w + column) * p->channels + c];
                            most = v > most ? v : most;
                        }
                    }
                    *out++ = (int8_t)edgec_clamp(most, p->low, p->high);
                }
            }
        }
        in += p->in_h * p->in_w * p->channels;
    }
}

/* Rounds once or twice, which is known at both calls. */
static inline void reduce(
    const edgec_mean_s8_params *p, const int8_t *in, int8_t *out, int32_t once) {
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            int32_t sum = -p->in_zero * p->count;
            for (int32_t n = 0; n < p->count; ++n) {
                sum += in[n * p->inner + i];
            }
            sum = once ? edgec_scale_once(sum, p->mantissa, p->exponent)
                       : edgec_scale(sum, p->mantissa, p->exponent);
            *out++ = (int8_t)edgec_clamp(sum + p->out_zero, -128, 127);
        }
        in += p->count * p->inner;
    }
}

void edgec_mean_s8(const edgec_mean_s8_params *p, const int8_t *in, int8_t *out) {
    reduce(p, in, out, 0);
}

void edgec_sum_s8(const edgec_mean_s8_params *p, const int8_t *in, int8_t *out) {
    reduce(p, in, out, 1);
}

static inline void pick(
    const edgec_reduce_s8_params *p, const int8_t *in, int8_t *out, int32_t sign) {
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            int32_t most = sign * in[i];
            for (int32_t n = 1; n < p->count; ++n) {
                const int32_t x = sign * in[n * p->inner + i];
                most = x > most ? x : most;
            }
            *out++ = (int8_t)(sign * most);
        }
        in += p->count * p->inner;
    }
}

void edgec_reduce_max_s8(const edgec_reduce_s8_params *p, const int8_t *in, int8_t *out) {
    pick(p, in, out, 1);
}

void edgec_reduce_min_s8(const edgec_reduce_s8_params *p, const int8_t *in, int8_t *out) {
    pick(p, in, out, -1);
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
