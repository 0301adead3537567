/* Norms of rows on int16: integer sums, integer roots. */
#include "edgec_fixed_point.h"
#include "edgec_kernels_s16.h"
#include "edgec_root.h"

enum { ELEMENT_BITS = 20, UNIT_BITS = 15 };

static int16_t saturated(int64_t x) {
    return (int16_t)(x < INT16_MIN ? INT16_MIN : (x > INT16_MAX ? INT16_MAX : x));
}

void edgec_layer_norm_s16(const edgec_layer_norm_s8_params *p, const int16_t *in, int16_t *out) {
    const int64_t epsilon = (int64_t)(((uint64_t)p->epsilon_high << 32) | p->epsilon_low);
    const int32_t last = ELEMENT_BITS + p->gain_bits;
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            int32_t sum = 0;
            int64_t squares = 0;
            for (int32_t n = 0; n < p->count; ++n) {
                const int32_t x = in[n * p->inner + i];
                sum += x;
                squares += x * x;
            }
            const int64_t spread = p->count * squares - (int64_t)sum * sum;
            int32_t inverse = 0;
            int32_t right = 1;
            if (spread > 0) {
                int32_t pairs;
                inverse = edgec_inverse_root(
                    (uint64_t)(spread * ((int64_t)1 << p->spread_bits) + epsilon), &pairs);
                right = 61 - ELEMENT_BITS - p->spread_bits / 2 - pairs;
            }
            const int64_t half = (int64_t)1 << (right - 1);
            int32_t channel = i;
            for (int32_t n = 0; n < p->count; ++n) {
                const int64_t centred = (int64_t)p->count * in[n * p->inner + i] - sum;
                const int32_t t = (int32_t)((centred * inverse + half) >> right);
                const int64_t shifted = p->offset[channel] * ((int64_t)1 << ELEMENT_BITS);
                const int64_t wide =
                    (int64_t)t * p->gain[channel] + shifted + ((int64_t)1 << (last - 1));
                out[n * p->inner + i] = saturated(wide >> last);
                channel += p->inner;
                channel = channel < p->period ? channel : channel - p->period;
            }
        }
        in += p->count * p->inner;
        out += p->count * p->inner;
    }
}

void edgec_l2_norm_s16(const edgec_l2_norm_s8_params *p, const int16_t *in, int16_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        int64_t squares = 0;
        for (int32_t i = 0; i < p->size; ++i) {
            squares += in[i] * in[i];
        }
        int32_t pairs = 0;
        const int32_t inverse = squares > 0 ? edgec_inverse_root((uint64_t)squares, &pairs) : 0;
        const int32_t right = 61 - UNIT_BITS - pairs;
        const int64_t half = (int64_t)1 << (right - 1);
        for (int32_t i = 0; i < p->size; ++i) {
            out[i] = saturated(((int64_t)in[i] * inverse + half) >> right);
        }
        in += p->size;
        out += p->size;
    }
}
