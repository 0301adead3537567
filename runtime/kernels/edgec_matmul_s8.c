/* Matrix products on int8. */
#include <string.h>

#include "edgec_rows_s8.h"

static edgec_rows_s8 rows_of(const edgec_fully_connected_s8_params *p) {
    edgec_rows_s8 rows;
    rows.size = p->in_size;
    rows.columns = p->out_size;
    rows.out_stride = p->out_size;
    rows.out_zero = p->out_zero;
    rows.low = p->low;
    rows.high = p->high;
    rows.wide = 0;
    rows.each = p->scales_each != 0 ? -1 : 0;
    rows.weights = p->weights;
    rows.bias = p->bias;
    rows.bias_width = p->bias_width;
    rows.mantissa = p->scales.mantissa;
    rows.exponent = p->scales.exponent;
    return rows;
}

void edgec_fully_connected_row_s8(
    const edgec_fully_connected_s8_params *p, const int8_t *in, int8_t *out) {
    const edgec_rows_s8 rows = rows_of(p);
    edgec_one_row_s8(&rows, in, out, EDGEC_ONCE);
}

void edgec_fully_connected_s8(
    const edgec_fully_connected_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch) {
    const edgec_rows_s8 rows = rows_of(p);
    int32_t row = 0;
    for (; row + 2 <= p->rows && edgec_in_pairs(&rows); row += 2) {
        for (int32_t i = 0; i < 2; ++i) {
            edgec_copy_s8(edgec_pair_place(scratch, p->in_size, i), in, p->in_size);
            edgec_pair_ready(scratch, p->in_size, i);
            in += p->in_size;
        }
        edgec_two_rows_s8(&rows, scratch, out, EDGEC_ONCE, EDGEC_LIMITS);
        out += 2 * p->out_size;
    }
    for (; row < p->rows; ++row) {
        /* a copy: outputs may overlap the rest of the row */
        edgec_copy_s8(scratch, in, p->in_size);
        edgec_fully_connected_row_s8(p, scratch, out);
        in += p->in_size;
        out += p->out_size;
    }
}

/* Files of old converters have weights with a zero point. */
void edgec_fully_connected_any_s8(
    const edgec_fully_connected_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        const int8_t *weights = p->weights;
        for (int32_t o = 0; o < p->out_size; ++o) {
            const int32_t scale = p->scales_each != 0 ? o : 0;
            int32_t sum = edgec_bias(p->bias, p->bias_width, o);
            for (int32_t i = 0; i < p->in_size; ++i) {
                sum += in[i] * (weights[i] - p->weight_zero);
            }
            weights += p->in_size;
            sum = edgec_scale_once(sum, p->scales.mantissa[scale], p->scales.exponent[scale]);
            *out++ = (int8_t)edgec_clamp(sum + p->out_zero, p->low, p->high);
        }
        in += p->in_size;
    }
}

/* One matrix times another, where rows of the first are dense: four columns of the second are
 * gathered, and the zero points are taken off the sums. */
static EDGEC_APART void dense_product(
    const edgec_matmul_s8_params *given, const int8_t *a, const int8_t *b, int8_t *out,
    int8_t *scratch) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_matmul_s8_params copy = *given;
    const edgec_matmul_s8_params *const p = &copy;
    const edgec_multiplier scale = edgec_multiplier_of(p->mantissa, p->exponent, 0);
    const int32_t both = p->inner * p->a_zero * p->b_zero;
    for (int32_t column = 0; column < p->columns; column += 4) {
        const int32_t width = p->columns - column < 4 ? p->columns - column : 4;
        const int8_t *from = b + column * p->b_column;
        int32_t start[4];
        for (int32_t j = 0; j < 4; ++j) {
            int8_t *to = scratch + j * p->inner;
            /* past the end, the last column is repeated */
            const int8_t *source = from + (j < width ? j : width - 1) * p->b_column;
            if (p->b_inner == 1) {
                edgec_copy_s8(to, source, p->inner);
            } else {
                for (int32_t i = 0; i < p->inner; ++i) {
                    to[i] = source[i * p->b_inner];
                }
            }
            start[j] = both - p->a_zero * edgec_total_s8(to, p->inner);
        }
        for (int32_t row = 0; row < p->rows; ++row) {
            const int8_t *left = a + row * p->a_row;
            int8_t *to = out + row * p->columns + column;
            const int32_t off = p->b_zero != 0 ? p->b_zero * edgec_total_s8(left, p->inner) : 0;
#if defined(EDGEC_HELIUM)
            const int32x4_t sums = vaddq_s32(
                edgec_dot_4_s8(left, scratch, p->inner, p->inner),
                vsubq_n_s32(vldrwq_s32(start), off));
            vstrbq_p_s32(
                to, edgec_clamp_4(edgec_multiply_4(&scale, sums), p->out_zero, p->low, p->high),
                vctp32q((uint32_t)width));
#else
            int32_t sums[4] = {start[0] - off, start[1] - off, start[2] - off, start[3] - off};
            edgec_dot_1x4_s8(left, scratch, p->inner, p->inner, sums);
            for (int32_t j = 0; j < width; ++j) {
                const int32_t scaled = edgec_multiply(&scale, sums[j]);
                to[j] = (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
            }
#endif
        }
    }
}

static void any_product(
    const edgec_matmul_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        for (int32_t column = 0; column < p->columns; ++column) {
            const int8_t *left = a + row * p->a_row;
            const int8_t *right = b + column * p->b_column;
            int32_t sum = 0;
            for (int32_t i = 0; i < p->inner; ++i) {
                sum += (left[i * p->a_inner] - p->a_zero) * (right[i * p->b_inner] - p->b_zero);
            }
            const int32_t scaled = edgec_scale(sum, p->mantissa, p->exponent);
            *out++ = (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
        }
    }
}

void edgec_matmul_s8(
    const edgec_matmul_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out,
    int8_t *scratch) {
    for (int32_t i = 0; i < p->batch[0]; ++i) {
        for (int32_t j = 0; j < p->batch[1]; ++j) {
            for (int32_t k = 0; k < p->batch[2]; ++k) {
                const int8_t *left =
                    a + i * p->a_batch[0] + j * p->a_batch[1] + k * p->a_batch[2];
                const int8_t *right =
                    b + i * p->b_batch[0] + j * p->b_batch[1] + k * p->b_batch[2];
                if (p->a_inner == 1) {
                    dense_product(p, left, right, out, scratch);
                } else {
                    any_product(p, left, right, out);
                }
                out += p->rows * p->columns;
            }
        }
    }
}
