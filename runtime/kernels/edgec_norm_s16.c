/* Norms of rows on int16. */
#include "edgec_kernels_s16.h"

typedef int16_t edgec_element;
enum { EDGEC_LOWEST = INT16_MIN, EDGEC_HIGHEST = INT16_MAX };
typedef int64_t edgec_sum;

#include "edgec_layer_norm.h"

enum { UNIT_BITS = 15 };

void edgec_layer_norm_s16(const edgec_layer_norm_s8_params *p, const int16_t *in, int16_t *out) {
    edgec_layer_norm(p, in, out);
}

static int16_t saturated(int64_t x) {
    return (int16_t)(x < INT16_MIN ? INT16_MIN : (x > INT16_MAX ? INT16_MAX : x));
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
