/* Kernels of single precision, for networks and parts of them that are not quantized.
 *
 * Plain C99: sums run in the order of the loops, and functions are those of edgec_math_f32.h, so that
 * results are the same to the last bit wherever single precision is IEEE's and the compiler does not
 * contract (-std=c99, or -ffp-contract=off); pow, sin and cos alone come from the C library. The
 * conventions of edgec_kernels.h hold: channels last, dense, all constants in the parameter struct.
 */
#ifndef EDGEC_KERNELS_F32_H
#define EDGEC_KERNELS_F32_H

#include <stdint.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

/* integers are converted to and from single precision, and stored floats have 4 bytes */
typedef char edgec_needs_floats_of_4_bytes[sizeof(float) == 4 ? 1 : -1];

#ifdef __cplusplus
extern "C" {
#endif

/* To and from integers: real = scale * (integer - zero). Rounded to the nearest, halves away from
 * zero; what lies outside, and NaN, becomes an end of int8. */
typedef struct {
    int32_t count;
    float scale;
    int32_t zero;
} edgec_quantize_f32_params;

void edgec_quantize_f32(const edgec_quantize_f32_params *p, const float *in, int8_t *out);
void edgec_dequantize_f32(const edgec_quantize_f32_params *p, const int8_t *in, float *out);
void edgec_quantize_s16_f32(const edgec_quantize_f32_params *p, const float *in, int16_t *out);
void edgec_dequantize_s16_f32(const edgec_quantize_f32_params *p, const int16_t *in, float *out);

/* Convolution with weights [out_c][k_h][k_w][in_c / groups]. */
typedef struct {
    int32_t batch, in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t k_h, k_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w, groups;
    float low, high;
    const float *weights;
    const float *bias;
} edgec_conv_f32_params;

void edgec_conv_f32(const edgec_conv_f32_params *p, const float *in, float *out);
/* Weights [k_h][k_w][out_c]; output channel c reads input channel c / (out_c / in_c). */
void edgec_depthwise_f32(const edgec_conv_f32_params *p, const float *in, float *out);

/* out[row][o] = in[row] . weights[o] + bias[o] */
typedef struct {
    int32_t rows, in_size, out_size;
    float low, high;
    const float *weights;
    const float *bias;
} edgec_fully_connected_f32_params;

void edgec_fully_connected_f32(
    const edgec_fully_connected_f32_params *p, const float *in, float *out);

/* out[b] = a[b] (rows x inner) . b[b]; strides, in elements, tell where the operands' lie. */
typedef struct {
    int32_t batch[3], a_batch[3], b_batch[3]; /* a stride of 0 repeats the operand */
    int32_t rows, inner, columns;
    int32_t a_row, a_inner, b_inner, b_column;
} edgec_matmul_f32_params;

void edgec_matmul_f32(
    const edgec_matmul_f32_params *p, const float *a, const float *b, float *out);

/* Two operands of up to four dimensions, broadcast by strides of 0, clamped afterwards. */
typedef struct {
    int32_t shape[4], a_stride[4], b_stride[4];
    float low, high;
} edgec_binary_f32_params;

void edgec_add_f32(const edgec_binary_f32_params *p, const float *a, const float *b, float *out);
void edgec_sub_f32(const edgec_binary_f32_params *p, const float *a, const float *b, float *out);
void edgec_mul_f32(const edgec_binary_f32_params *p, const float *a, const float *b, float *out);
void edgec_div_f32(const edgec_binary_f32_params *p, const float *a, const float *b, float *out);
void edgec_pow_f32(const edgec_binary_f32_params *p, const float *a, const float *b, float *out);
void edgec_maximum_f32(
    const edgec_binary_f32_params *p, const float *a, const float *b, float *out);
void edgec_minimum_f32(
    const edgec_binary_f32_params *p, const float *a, const float *b, float *out);
void edgec_squared_difference_f32(
    const edgec_binary_f32_params *p, const float *a, const float *b, float *out);
/* Negative elements of a times b. */
void edgec_prelu_f32(const edgec_binary_f32_params *p, const float *a, const float *b, float *out);

/* Functions of one element; `alpha` is the slope of LEAKY_RELU. May work in place. */
typedef struct {
    int32_t count;
    float alpha;
} edgec_unary_f32_params;

void edgec_abs_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_neg_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_exp_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_log_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_sqrt_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_rsqrt_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_sin_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_cos_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_floor_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_ceil_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_sigmoid_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_tanh_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_gelu_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_gelu_tanh_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_hard_swish_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_relu_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_relu6_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_elu_f32(const edgec_unary_f32_params *p, const float *in, float *out);
void edgec_leaky_relu_f32(const edgec_unary_f32_params *p, const float *in, float *out);

/* Averages and maxima over windows; padding does not count. */
typedef struct {
    int32_t batch, in_h, in_w, out_h, out_w, channels;
    int32_t k_h, k_w, stride_h, stride_w, pad_h, pad_w;
    float low, high;
} edgec_pool_f32_params;

void edgec_average_pool_f32(const edgec_pool_f32_params *p, const float *in, float *out);
void edgec_max_pool_f32(const edgec_pool_f32_params *p, const float *in, float *out);

/* Over the middle of [outer][count][inner]. */
typedef struct {
    int32_t outer, count, inner;
} edgec_reduce_f32_params;

void edgec_mean_f32(const edgec_reduce_f32_params *p, const float *in, float *out);
void edgec_sum_f32(const edgec_reduce_f32_params *p, const float *in, float *out);
void edgec_reduce_max_f32(const edgec_reduce_f32_params *p, const float *in, float *out);
void edgec_reduce_min_f32(const edgec_reduce_f32_params *p, const float *in, float *out);

/* Rows of `size` elements; `beta` scales the exponents. May work in place. */
typedef struct {
    int32_t rows, size;
    float beta;
} edgec_rows_f32_params;

void edgec_softmax_f32(const edgec_rows_f32_params *p, const float *in, float *out);
void edgec_log_softmax_f32(const edgec_rows_f32_params *p, const float *in, float *out);
void edgec_l2_norm_f32(const edgec_rows_f32_params *p, const float *in, float *out);

/* Normalization over the middle of [outer][count][inner]; element n of the block [count][inner]
 * uses entry n % period of gain and offset. */
typedef struct {
    int32_t outer, count, inner, period;
    float epsilon;
    const float *gain;
    const float *offset;
} edgec_layer_norm_f32_params;

void edgec_layer_norm_f32(const edgec_layer_norm_f32_params *p, const float *in, float *out);

/* Bilinear interpolation: output i lies at start + scale * i. */
typedef struct {
    int32_t batch, in_h, in_w, out_h, out_w, channels;
    float start_h, start_w, scale_h, scale_w;
} edgec_resize_bilinear_f32_params;

void edgec_resize_bilinear_f32(
    const edgec_resize_bilinear_f32_params *p, const float *in, float *out);

#ifdef __cplusplus
}
#endif

#endif
