/* Integer kernels of networks on small devices: C99, no libc, no heap, no globals, no recursion.
 *
 * Tensors are channels-last and dense. All of a kernel's constants are in its parameter struct;
 * pointers never alias unless the kernel says so. A kernel that the planner lets overlap its input
 * and output writes in order of address and reads nothing that lies under what it wrote.
 */
#ifndef EDGEC_KERNELS_H
#define EDGEC_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Requantization of a channel: a table entry per output channel. */
typedef struct {
    const int32_t *mantissa;
    const int8_t *exponent;
} edgec_scales;

/* How a row is multiplied where sums or scales exceed what the fast requantization takes. Parameters
 * point to the function, so that only networks that need it link it. */
struct edgec_rows_s8;
typedef void (*edgec_row_s8)(const struct edgec_rows_s8 *p, const int8_t *row, int8_t *out);
void edgec_wide_row_s8(const struct edgec_rows_s8 *p, const int8_t *row, int8_t *out);

/* Convolution with weights [out_c][k_h][k_w][in_c / groups].
 *
 * The bias holds the input's zero point already: bias[o] - in_zero * sum of weights[o]. Its elements
 * are int16_t where `bias_width` is 2, and int32_t where it is 4.
 */
typedef struct {
    int32_t batch, in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int16_t groups, bias_width;
    int16_t k_h, k_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
    int16_t in_zero, out_zero, low, high;
    edgec_row_s8 wide; /* where sums may exceed 2^30, or exponents are not negative */
    const int8_t *weights;
    const void *bias;
    edgec_scales scales;
#ifdef EDGEC_CMSIS_NN
    const int32_t *plain_bias; /* without the zero point; a null pointer: not for CMSIS-NN */
    const int32_t *shift;      /* the exponents of `scales` */
#endif
} edgec_conv_s8_params;

/* Scratch: 5 bytes for each of the k_h * k_w * in_c / groups elements of a window, one for each of a
 * window of more than EDGEC_MOST_PAIRED. */
void edgec_conv_s8(const edgec_conv_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch);
/* Weights [k_h][k_w][out_c]; output channel c reads input channel c / (out_c / in_c). Biases of 4
 * bytes. Scratch: in_c bytes. */
void edgec_depthwise_s8(
    const edgec_conv_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch);

/* out[row][o] = in[row] . weights[o]; the bias holds the input's zero point, as above. Exponents are
 * at most -2 but for the last of these kernels. */
typedef struct {
    int32_t rows, in_size, out_size;
    int16_t scales_each; /* an entry of `scales` per output, or 0: one for all */
    int16_t weight_zero, out_zero, low, high, bias_width;
    const int8_t *weights;
    const void *bias;
    edgec_scales scales;
} edgec_fully_connected_s8_params;

/* Scratch: 5 bytes for each element of a row, one for each of a row of more than EDGEC_MOST_PAIRED. */
void edgec_fully_connected_s8(
    const edgec_fully_connected_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch);
/* Of a single row. */
void edgec_fully_connected_row_s8(
    const edgec_fully_connected_s8_params *p, const int8_t *in, int8_t *out);
/* Of any scales, and of weights with a zero point. */
void edgec_fully_connected_any_s8(
    const edgec_fully_connected_s8_params *p, const int8_t *in, int8_t *out);

/* out[b] = a[b] (rows x inner) . b[b]; strides, in elements, tell where the operands' lie. */
typedef struct {
    int32_t batch[3], a_batch[3], b_batch[3]; /* a stride of 0 repeats the operand */
    int32_t rows, inner, columns;
    int32_t a_row, a_inner, b_inner, b_column;
    int32_t a_zero, b_zero, out_zero, low, high;
    int32_t mantissa, exponent;
} edgec_matmul_s8_params;

/* Scratch: 4 * inner bytes. */
void edgec_matmul_s8(
    const edgec_matmul_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out,
    int8_t *scratch);

/* Two operands of up to four dimensions, broadcast by strides of 0. */
typedef struct {
    int32_t shape[4], a_stride[4], b_stride[4];
    int32_t a_mantissa, b_mantissa, out_mantissa;
    int16_t a_exponent, b_exponent, out_exponent;
    int16_t shift; /* of both operands, to the left */
    int16_t a_zero, b_zero, out_zero, low, high;
} edgec_binary_s8_params;

void edgec_add_s8(const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out);
void edgec_sub_s8(const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out);
void edgec_mul_s8(const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out);
void edgec_squared_difference_s8(
    const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out);

/* Of operands with the scale and zero point of the output. */
void edgec_maximum_s8(
    const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out);
void edgec_minimum_s8(
    const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out);

/* Any function of one int8: table[x + 128]. May work in place. */
typedef struct {
    int32_t count;
    const int8_t *table;
} edgec_lookup_s8_params;

void edgec_lookup_s8(const edgec_lookup_s8_params *p, const int8_t *in, int8_t *out);

/* A 1 x 1 convolution, a function of its elements, and a depthwise convolution, row by row: of what
 * lies between them only the rows of one window exist. */
typedef struct {
    int32_t in_h, out_h, stride_h, pad_h;
    int32_t window; /* bytes of the rows of a window, rounded up to 4 */
    edgec_conv_s8_params expand;       /* of one row */
    edgec_lookup_s8_params activation; /* of one row; a null pointer for no function */
    edgec_conv_s8_params depthwise;    /* of one window, without padding above it: one row */
} edgec_expand_depthwise_s8_params;

/* Scratch: `window` bytes and the larger scratch of the two convolutions. */
void edgec_expand_depthwise_s8(
    const edgec_expand_depthwise_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch);

typedef struct {
    int32_t batch, in_h, in_w, out_h, out_w, channels;
    int32_t k_h, k_w, stride_h, stride_w, pad_h, pad_w, low, high;
} edgec_pool_s8_params;

void edgec_average_pool_s8(const edgec_pool_s8_params *p, const int8_t *in, int8_t *out);
void edgec_max_pool_s8(const edgec_pool_s8_params *p, const int8_t *in, int8_t *out);

/* Mean over the middle of [outer][count][inner]. */
typedef struct {
    int32_t outer, count, inner;
    int32_t in_zero, out_zero, mantissa, exponent;
} edgec_mean_s8_params;

void edgec_mean_s8(const edgec_mean_s8_params *p, const int8_t *in, int8_t *out);

/* Sum over the middle of [outer][count][inner]. */
void edgec_sum_s8(const edgec_mean_s8_params *p, const int8_t *in, int8_t *out);

/* Largest or smallest of the middle of [outer][count][inner]. */
typedef struct {
    int32_t outer, count, inner;
} edgec_reduce_s8_params;

void edgec_reduce_max_s8(const edgec_reduce_s8_params *p, const int8_t *in, int8_t *out);
void edgec_reduce_min_s8(const edgec_reduce_s8_params *p, const int8_t *in, int8_t *out);

/* Softmax of rows; table[d] = exp(-scale * d) in 2^-24, output scale 1/256 and zero point -128. */
typedef struct {
    int32_t rows, size;
    const uint32_t *table;
} edgec_softmax_s8_params;

void edgec_softmax_s8(const edgec_softmax_s8_params *p, const int8_t *in, int8_t *out);

/* LayerNormalization over the middle of [outer][count][inner], at most 2^16 elements.
 *
 * The argument of the root, count * sum of squares - (sum)^2 + epsilon, has spread_bits fractional
 * bits, an even number, and fits 62 bits. Gains and offsets have gain_bits fractional bits and are
 * in steps of the output; the offset holds its zero point. Element n of the block [count][inner]
 * uses entry n % period, a multiple of inner. May work in place where inner is 1.
 */
typedef struct {
    int32_t outer, count, inner, period;
    int32_t gain_bits, spread_bits;
    uint32_t epsilon_high, epsilon_low;
    const int32_t *gain;
    const int32_t *offset;
} edgec_layer_norm_s8_params;

void edgec_layer_norm_s8(const edgec_layer_norm_s8_params *p, const int8_t *in, int8_t *out);

/* Rows divided by their Euclidean norm; output scale 1/128. At most 2^15 elements in a row. */
typedef struct {
    int32_t rows, size, in_zero, out_zero;
} edgec_l2_norm_s8_params;

void edgec_l2_norm_s8(const edgec_l2_norm_s8_params *p, const int8_t *in, int8_t *out);

/* Bilinear interpolation; positions in 1/1024 pixels: start + scale * row or column. */
typedef struct {
    int32_t batch, in_h, in_w, out_h, out_w, channels;
    int32_t start_h, start_w, scale_h, scale_w;
} edgec_resize_bilinear_s8_params;

void edgec_resize_bilinear_s8(
    const edgec_resize_bilinear_s8_params *p, const int8_t *in, int8_t *out);

/* The moves below work on bytes; wider elements are runs of them.
 *
 * Runs of neighbours, at start + i . stride: transposes, blocks of a tensor. The output may lie at or
 * below the input where strides descend, as in blocks. */
typedef struct {
    int32_t start, run, shape[5], stride[5];
} edgec_strided_copy_s8_params;

void edgec_strided_copy_s8(const edgec_strided_copy_s8_params *p, const int8_t *in, int8_t *out);

/* Entries along the middle of [outer][axis][inner]. */
typedef struct {
    int32_t outer, axis, inner, count;
    const int32_t *indices;
} edgec_gather_s8_params;

void edgec_gather_s8(const edgec_gather_s8_params *p, const int8_t *in, int8_t *out);

/* `fill` is an element of `width` bytes, 1, 2 or 4. */
typedef struct {
    int32_t in_shape[4], before[4], out_shape[4];
    int32_t width, fill;
} edgec_pad_s8_params;

void edgec_pad_s8(const edgec_pad_s8_params *p, const int8_t *in, int8_t *out);

/* Rows of one operand into their places in the rows of a concatenation. */
typedef struct {
    int32_t rows, in_row, out_row, start;
} edgec_concat_s8_params;

void edgec_concat_s8(const edgec_concat_s8_params *p, const int8_t *in, int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
