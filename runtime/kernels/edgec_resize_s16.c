/* Images of other sizes, int16. */
#include "edgec_kernels_s16.h"

typedef int16_t edgec_element;
typedef int64_t edgec_sum;

#include "edgec_resize.h"

void edgec_resize_bilinear_s16(
    const edgec_resize_bilinear_s8_params *p, const int16_t *in, int16_t *out) {
    edgec_resize_bilinear(p, in, out);
}
