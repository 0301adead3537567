/* Pools, means and extremes, the same for every type of element.
 *
 * The including file says what `edgec_element` is, and EDGEC_LOWEST and EDGEC_HIGHEST of it.
 */
#ifndef EDGEC_REDUCE_H
#define EDGEC_REDUCE_H

#include "edgec_fixed_point.h"
#include "edgec_kernels.h"
#include "edgec_window.h"

/* Mean or largest of each window, which is known at every call. */
static EDGEC_INLINE void edgec_pool(
    const edgec_pool_s8_params *p, const edgec_element *in, edgec_element *out, int average) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            for (int32_t x = 0; x < p->out_w; ++x) {
                const edgec_span s = edgec_span_of(p, y, x);
                const int32_t count = (s.bottom - s.top) * (s.right - s.left);
                for (int32_t c = 0; c < p->channels; ++c) {
                    int32_t sum = 0;
                    int32_t most = EDGEC_LOWEST;
                    for (int32_t row = s.top; row < s.bottom; ++row) {
                        for (int32_t column = s.left; column < s.right; ++column) {
                            const int32_t v = in[(row * p->in_w + column) * p->channels + c];
                            sum += v;
                            most = v > most ? v : most;
                        }
                    }
                    const int32_t found =
                        average ? (sum + (sum > 0 ? count / 2 : -(count / 2))) / count : most;
                    *out++ = (edgec_element)edgec_clamp(found, p->low, p->high);
                }
            }
        }
        in += p->in_h * p->in_w * p->channels;
    }
}

/* Sums on another scale, rounded once or twice, which is known at every call. */
static EDGEC_INLINE void edgec_reduce(
    const edgec_mean_s8_params *p, const edgec_element *in, edgec_element *out, int once) {
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            int32_t sum = -p->in_zero * p->count;
            for (int32_t n = 0; n < p->count; ++n) {
                sum += in[n * p->inner + i];
            }
            sum = once ? edgec_scale_once(sum, p->mantissa, p->exponent)
                       : edgec_scale(sum, p->mantissa, p->exponent);
            *out++ = (edgec_element)edgec_clamp(sum + p->out_zero, EDGEC_LOWEST, EDGEC_HIGHEST);
        }
        in += p->count * p->inner;
    }
}

/* Largest, or smallest, which is known at every call. */
static EDGEC_INLINE void edgec_pick(
    const edgec_reduce_s8_params *p, const edgec_element *in, edgec_element *out, int largest) {
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            edgec_element found = in[i];
            for (int32_t n = 1; n < p->count; ++n) {
                const edgec_element x = in[n * p->inner + i];
                found = (largest ? x > found : x < found) ? x : found;
            }
            *out++ = found;
        }
        in += p->count * p->inner;
    }
}

#endif
