/* LayerNormalization, the same for every type of element: integer sums, integer roots.
 *
 * The including file says what `edgec_element` is, EDGEC_LOWEST and EDGEC_HIGHEST of it, and
 * `edgec_sum`, which holds the squares of a row, and an element times their number.
 */
#ifndef EDGEC_LAYER_NORM_H
#define EDGEC_LAYER_NORM_H

#include "edgec_fixed_point.h"
#include "edgec_kernels.h"
#include "edgec_root.h"

enum { EDGEC_ELEMENT_BITS = 20 };

static EDGEC_INLINE void edgec_layer_norm(
    const edgec_layer_norm_s8_params *p, const edgec_element *in, edgec_element *out) {
    const int64_t epsilon = (int64_t)(((uint64_t)p->epsilon_high << 32) | p->epsilon_low);
    const int32_t last = EDGEC_ELEMENT_BITS + p->gain_bits;
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            int32_t sum = 0;
            edgec_sum squares = 0;
            for (int32_t n = 0; n < p->count; ++n) {
                const int32_t x = in[n * p->inner + i];
                sum += x;
                squares += x * x;
            }
            const int64_t spread = (int64_t)p->count * squares - (int64_t)sum * sum;
            int32_t inverse = 0;
            int32_t right = 1;
            if (spread > 0) {
                int32_t pairs;
                inverse = edgec_inverse_root(
                    (uint64_t)(spread * ((int64_t)1 << p->spread_bits) + epsilon), &pairs);
                right = 61 - EDGEC_ELEMENT_BITS - p->spread_bits / 2 - pairs;
            }
            const int64_t half = (int64_t)1 << (right - 1);
            int32_t channel = i;
            for (int32_t n = 0; n < p->count; ++n) {
                const edgec_sum centred = (edgec_sum)p->count * in[n * p->inner + i] - sum;
                const int32_t t = (int32_t)(((int64_t)centred * inverse + half) >> right);
                const int64_t shifted = p->offset[channel] * ((int64_t)1 << EDGEC_ELEMENT_BITS);
                const int64_t wide =
                    (int64_t)t * p->gain[channel] + shifted + ((int64_t)1 << (last - 1));
                const int64_t y = wide >> last;
                out[n * p->inner + i] = (edgec_element)(
                    y < EDGEC_LOWEST ? EDGEC_LOWEST : (y > EDGEC_HIGHEST ? EDGEC_HIGHEST : y));
                channel += p->inner;
                channel = channel < p->period ? channel : channel - p->period;
            }
        }
        in += p->count * p->inner;
        out += p->count * p->inner;
    }
}

#endif
