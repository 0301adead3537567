/* Two convolutions row by row, on int8. */
#include "edgec_kernels.h"

typedef int8_t edgec_element;
typedef edgec_expand_depthwise_s8_params edgec_expand_depthwise_params;
#define EDGEC_CONV edgec_conv_s8
#define EDGEC_FUNCTION edgec_lookup_s8
#define EDGEC_DEPTHWISE edgec_depthwise_s8

#include "edgec_stream.h"

void edgec_expand_depthwise_s8(
    const edgec_expand_depthwise_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch) {
    edgec_stream(p, in, out, scratch, p->depthwise.in_zero);
}
