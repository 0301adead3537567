/* Images of other sizes, int8. */
#include "edgec_kernels.h"

typedef int8_t edgec_element;
typedef int32_t edgec_sum;

#include "edgec_resize.h"

void edgec_resize_bilinear_s8(
    const edgec_resize_bilinear_s8_params *p, const int8_t *in, int8_t *out) {
    edgec_resize_bilinear(p, in, out);
}
