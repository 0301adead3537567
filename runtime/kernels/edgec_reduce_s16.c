/* Pools, means and softmax on int16. */
#include "edgec_fixed_point.h"
#include "edgec_interpolate_s16.h"
#include "edgec_kernels_s16.h"
#include "edgec_window.h"

/* Largest or mean of a window, which is known at both calls. */
static inline void pool(
    const edgec_pool_s8_params *p, const int16_t *in, int16_t *out, int average) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            for (int32_t x = 0; x < p->out_w; ++x) {
                const edgec_span s = edgec_span_of(p, y, x);
                const int32_t count = (s.bottom - s.top) * (s.right - s.left);
                for (int32_t c = 0; c < p->channels; ++c) {
                    int32_t sum = 0;
                    int32_t most = INT16_MIN;
                    for (int32_t row = s.top; row < s.bottom; ++row) {
                        for (int32_t column = s.left; column < s.right; ++column) {
                            const int32_t v = in[(row * p->in_w + column) * p->channels + c];
                            sum += v;
                            most = v > most ? v : most;
                        }
                    }
                    const int32_t mean =
                        average ? (sum + (sum > 0 ? count / 2 : -(count / 2))) / count : most;
                    *out++ = (int16_t)edgec_clamp(mean, p->low, p->high);
                }
            }
        }
        in += p->in_h * p->in_w * p->channels;
    }
}

void edgec_average_pool_s16(const edgec_pool_s8_params *p, const int16_t *in, int16_t *out) {
    pool(p, in, out, 1);
}

void edgec_max_pool_s16(const edgec_pool_s8_params *p, const int16_t *in, int16_t *out) {
    pool(p, in, out, 0);
}

/* Rounds once or twice, which is known at both calls. */
static inline void reduce(
    const edgec_mean_s8_params *p, const int16_t *in, int16_t *out, int once) {
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            int32_t sum = 0;
            for (int32_t n = 0; n < p->count; ++n) {
                sum += in[n * p->inner + i];
            }
            sum = once ? edgec_scale_once(sum, p->mantissa, p->exponent)
                       : edgec_scale(sum, p->mantissa, p->exponent);
            *out++ = (int16_t)edgec_clamp(sum, INT16_MIN, INT16_MAX);
        }
        in += p->count * p->inner;
    }
}

void edgec_mean_s16(const edgec_mean_s8_params *p, const int16_t *in, int16_t *out) {
    reduce(p, in, out, 0);
}

void edgec_sum_s16(const edgec_mean_s8_params *p, const int16_t *in, int16_t *out) {
    reduce(p, in, out, 1);
}

static inline void pick(
    const edgec_reduce_s8_params *p, const int16_t *in, int16_t *out, int largest) {
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            int16_t found = in[i];
            for (int32_t n = 1; n < p->count; ++n) {
                const int16_t x = in[n * p->inner + i];
                found = (largest ? x > found : x < found) ? x : found;
            }
            *out++ = found;
        }
        in += p->count * p->inner;
    }
}

void edgec_reduce_max_s16(const edgec_reduce_s8_params *p, const int16_t *in, int16_t *out) {
    pick(p, in, out, 1);
}

void edgec_reduce_min_s16(const edgec_reduce_s8_params *p, const int16_t *in, int16_t *out) {
    pick(p, in, out, 0);
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
