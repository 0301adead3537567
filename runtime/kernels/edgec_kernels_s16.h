/* Kernels on int16 activations with int8 weights; rules as in edgec_kernels.h.
 *
 * Integers are symmetric: no zero points. Where structs are those of the int8 kernels, their zero
 * points are 0.
 */
#ifndef EDGEC_KERNELS_S16_H
#define EDGEC_KERNELS_S16_H

#include "edgec_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Convolution with weights [out_c][k_h][k_w][in_c / groups]. */
typedef struct {
    int32_t batch, in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t k_h, k_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w, groups;
    int32_t low, high;
    int32_t wide;             /* sums may exceed 32 bits, or exponents are above -2 */
    const int32_t *bias;      /* the lower 32 bits */
    const int32_t *bias_high; /* the upper ones; a null pointer where `wide` is 0 */
    const int8_t *weights;
    edgec_scales scales; /* mantissas have 15 bits, times 2^16 */
} edgec_conv_s16_params;

/* Scratch: two windows of k_h * k_w * in_c / groups elements, one of a window of more than
 * EDGEC_MOST_PAIRED. Aligned to 4 bytes, as all scratch. */
void edgec_conv_s16(
    const edgec_conv_s16_params *p, const int16_t *in, int16_t *out, void *scratch);
/* Weights [k_h][k_w][out_c]; output channel c reads input channel c / (out_c / in_c). Scratch: in_c
 * elements. */
void edgec_depthwise_s16(
    const edgec_conv_s16_params *p, const int16_t *in, int16_t *out, void *scratch);

/* out[row][o] = in[row] . weights[o]. */
typedef struct {
    int32_t rows, in_size, out_size;
    int32_t low, high;
    int32_t scales_each; /* an entry of `scales` per output, or 0: one for all */
    int32_t wide;        /* as above */
    const int32_t *bias;
    const int32_t *bias_high;
    const int8_t *weights;
    edgec_scales scales;
} edgec_fully_connected_s16_params;

/* Scratch: two rows, one of more than EDGEC_MOST_PAIRED elements. */
void edgec_fully_connected_s16(
    const edgec_fully_connected_s16_params *p, const int16_t *in, int16_t *out, void *scratch);

/* out[b] = a[b] (rows x inner) . b[b], as edgec_matmul_s8. */
typedef struct {
    int32_t batch[3], a_batch[3], b_batch[3];
    int32_t rows, inner, columns;
    int32_t a_row, a_inner, b_inner, b_column;
    int32_t b_width; /* bytes of an element of b: 2, or 1 for int8 constants */
    int32_t low, high;
    int32_t mantissa, exponent; /* 15 bits, times 2^16 */
} edgec_matmul_s16_params;

/* Scratch: four rows of `inner` elements. */
void edgec_matmul_s16(
    const edgec_matmul_s16_params *p, const int16_t *a, const void *b, int16_t *out,
    void *scratch);

void edgec_add_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out);
void edgec_sub_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out);
void edgec_mul_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out);
void edgec_maximum_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out);
void edgec_minimum_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out);

/* To another scale. May work in place. */
typedef struct {
    int32_t count;
    int32_t mantissa, exponent, low, high;
} edgec_rescale_s16_params;

void edgec_rescale_s16(const edgec_rescale_s16_params *p, const int16_t *in, int16_t *out);

/* From int8 and to int8; `zero` is the zero point of the int8. */
typedef struct {
    int32_t count;
    int32_t mantissa;
    int16_t exponent, zero;
} edgec_convert_s16_params;

/* The output may lie count - 1 bytes under the input, or further. */
void edgec_widen_s16(const edgec_convert_s16_params *p, const int8_t *in, int16_t *out);
/* May work in place. */
void edgec_narrow_s16(const edgec_convert_s16_params *p, const int16_t *in, int8_t *out);

/* Any function of one int16: 513 values, straight lines between them. May work in place. */
typedef struct {
    int32_t count;
    const int16_t *table;
} edgec_interpolate_s16_params;

void edgec_interpolate_s16(const edgec_interpolate_s16_params *p, const int16_t *in, int16_t *out);

/* As edgec_expand_depthwise_s8. */
typedef struct {
    int32_t in_h, out_h, stride_h, pad_h;
    int32_t window; /* bytes of the rows of a window, rounded up to 4 */
    edgec_conv_s16_params expand;
    edgec_interpolate_s16_params activation;
    edgec_conv_s16_params depthwise;
} edgec_expand_depthwise_s16_params;

/* Scratch: `window` bytes and the larger scratch of the two convolutions. */
void edgec_expand_depthwise_s16(
    const edgec_expand_depthwise_s16_params *p, const int16_t *in, int16_t *out, void *scratch);

void edgec_average_pool_s16(const edgec_pool_s8_params *p, const int16_t *in, int16_t *out);
void edgec_max_pool_s16(const edgec_pool_s8_params *p, const int16_t *in, int16_t *out);
void edgec_mean_s16(const edgec_mean_s8_params *p, const int16_t *in, int16_t *out);
void edgec_sum_s16(const edgec_mean_s8_params *p, const int16_t *in, int16_t *out);
void edgec_reduce_max_s16(const edgec_reduce_s8_params *p, const int16_t *in, int16_t *out);
void edgec_reduce_min_s16(const edgec_reduce_s8_params *p, const int16_t *in, int16_t *out);

/* Softmax of rows of at most 2^15 elements, output scale 2^-15: tables of exp from -10 to 0 and of
 * 1 / (1 + x) from 0 to 1, and the scale from differences of inputs to the first. */
typedef struct {
    int32_t rows, size;
    int32_t mantissa, exponent;
    const int16_t *exponentials, *reciprocals;
} edgec_softmax_s16_params;

void edgec_softmax_s16(const edgec_softmax_s16_params *p, const int16_t *in, int16_t *out);

/* At most 2^15 elements in a row. */
void edgec_layer_norm_s16(const edgec_layer_norm_s8_params *p, const int16_t *in, int16_t *out);
/* Output scale 2^-15. */
void edgec_l2_norm_s16(const edgec_l2_norm_s8_params *p, const int16_t *in, int16_t *out);

void edgec_resize_bilinear_s16(
    const edgec_resize_bilinear_s8_params *p, const int16_t *in, int16_t *out);

#ifdef __cplusplus
}
#endif

#endif
