/* Convolutions by Arm's CMSIS-NN (github.com/ARM-software/CMSIS-NN), where that gives the same bytes.
 *
 * CMSIS-NN rounds twice, as convolutions do here; its fully connected layers round twice too, where
 * TFLite's round once, so they are not used. Neither are its 1 x 1 convolutions: they do not write
 * pixel after pixel, which the planner relies on where output and input overlap.
 *
 * Included with EDGEC_CMSIS_NN defined; the headers and sources of CMSIS-NN are the user's.
 */
#ifndef EDGEC_CMSIS_NN_H
#define EDGEC_CMSIS_NN_H

#include "arm_nnfunctions.h"

#include "edgec_kernels.h"

static inline cmsis_nn_dims edgec_cmsis_dims(int32_t n, int32_t h, int32_t w, int32_t c) {
    cmsis_nn_dims dims;
    dims.n = n;
    dims.h = h;
    dims.w = w;
    dims.c = c;
    return dims;
}

/* Whether the convolution is done; `bytes` of scratch. */
static inline int edgec_cmsis_conv_s8(
    const edgec_conv_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch, int32_t bytes) {
    const cmsis_nn_dims input = edgec_cmsis_dims(p->batch, p->in_h, p->in_w, p->in_c);
    const cmsis_nn_dims filter = edgec_cmsis_dims(p->out_c, p->k_h, p->k_w, p->in_c / p->groups);
    const cmsis_nn_dims output = edgec_cmsis_dims(p->batch, p->out_h, p->out_w, p->out_c);
    if (p->plain_bias == 0 || p->groups != 1 ||
        arm_convolve_s8_get_buffer_size(&input, &filter) > bytes) {
        return 0;
    }
    cmsis_nn_conv_params conv;
    conv.input_offset = -p->in_zero;
    conv.output_offset = p->out_zero;
    conv.stride.h = p->stride_h;
    conv.stride.w = p->stride_w;
    conv.padding.h = p->pad_h;
    conv.padding.w = p->pad_w;
    conv.dilation.h = p->dilation_h;
    conv.dilation.w = p->dilation_w;
    conv.activation.min = p->low;
    conv.activation.max = p->high;
    cmsis_nn_per_channel_quant_params scales;
    /* CMSIS-NN only reads what these pointers lead to */
    scales.multiplier = (int32_t *)(uintptr_t)p->scales.mantissa;
    scales.shift = (int32_t *)(uintptr_t)p->shift;
    cmsis_nn_context context;
    context.buf = scratch;
    context.size = bytes;
    const cmsis_nn_dims bias = edgec_cmsis_dims(1, 1, 1, p->out_c);
    return arm_convolve_s8(
               &context, &conv, &scales, &input, in, &filter, p->weights, &bias, p->plain_bias, 0,
               &output, out) == ARM_CMSIS_NN_SUCCESS;
}

/* The same of a depthwise convolution of 3 x 3, which needs no scratch. */
static inline int edgec_cmsis_depthwise_s8(
    const edgec_conv_s8_params *p, const int8_t *in, int8_t *out) {
#if defined(ARM_MATH_MVEI)
    /* without scratch, CMSIS-NN has plain C there */
    (void)p;
    (void)in;
    (void)out;
    return 0;
#else
    if (p->plain_bias == 0 || p->batch != 1 || p->in_c != p->out_c || p->k_h != 3 || p->k_w != 3 ||
        p->pad_h > 1 || p->pad_w > 1 || p->dilation_h != 1 || p->dilation_w != 1) {
        return 0;
    }
    const cmsis_nn_dims input = edgec_cmsis_dims(1, p->in_h, p->in_w, p->in_c);
    const cmsis_nn_dims filter = edgec_cmsis_dims(1, 3, 3, p->out_c);
    const cmsis_nn_dims output = edgec_cmsis_dims(1, p->out_h, p->out_w, p->out_c);
    cmsis_nn_dw_conv_params conv;
    conv.input_offset = -p->in_zero;
    conv.output_offset = p->out_zero;
    conv.ch_mult = 1;
    conv.stride.h = p->stride_h;
    conv.stride.w = p->stride_w;
    conv.padding.h = p->pad_h;
    conv.padding.w = p->pad_w;
    conv.dilation.h = 1;
    conv.dilation.w = 1;
    conv.activation.min = p->low;
    conv.activation.max = p->high;
    cmsis_nn_per_channel_quant_params scales;
    scales.multiplier = (int32_t *)(uintptr_t)p->scales.mantissa;
    scales.shift = (int32_t *)(uintptr_t)p->shift;
    cmsis_nn_context context;
    context.buf = 0;
    context.size = 0;
    const cmsis_nn_dims bias = edgec_cmsis_dims(1, 1, 1, p->out_c);
    return arm_depthwise_conv_3x3_s8(
               &context, &conv, &scales, &input, in, &filter, p->weights, &bias, p->plain_bias,
               &output, out) == ARM_CMSIS_NN_SUCCESS;
#endif
}

#endif
