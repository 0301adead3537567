/* Two convolutions row by row, on int16. */
#include "edgec_kernels_s16.h"

typedef int16_t edgec_element;
typedef edgec_expand_depthwise_s16_params edgec_expand_depthwise_params;
#define EDGEC_CONV edgec_conv_s16
#define EDGEC_FUNCTION edgec_interpolate_s16
#define EDGEC_DEPTHWISE edgec_depthwise_s16

#include "edgec_stream.h"

void edgec_expand_depthwise_s16(
    const edgec_expand_depthwise_s16_params *p, const int16_t *in, int16_t *out, void *scratch) {
    edgec_stream(p, in, out, (int16_t *)scratch, 0);
}
