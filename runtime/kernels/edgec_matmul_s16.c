/* Matrix products on int16. */
#include <string.h>

#include "edgec_rows_s16.h"

void edgec_fully_connected_s16(
    const edgec_fully_connected_s16_params *p, const int16_t *in, int16_t *out, void *scratch) {
    int16_t *const copy = (int16_t *)scratch;
    edgec_rows_s16 rows = {0};
    rows.size = p->in_size;
    rows.columns = p->out_size;
    rows.out_stride = p->out_size;
    rows.low = p->low;
    rows.high = p->high;
    rows.wide = p->wide;
    rows.each = p->scales_each != 0 ? -1 : 0;
    rows.weights = p->weights;
    rows.bias = p->bias;
    rows.bias_high = p->bias_high;
    rows.mantissa = p->scales.mantissa;
    rows.exponent = p->scales.exponent;
    const int32_t together = edgec_rows_in_pairs(&rows) ? 2 : 1;
    for (int32_t row = 0; row < p->rows;) {
        const int32_t count = p->rows - row < together ? p->rows - row : together;
        for (int32_t i = 0; i < count; ++i) {
            int16_t *to = copy + i * p->in_size;
            memcpy(to, in, (size_t)p->in_size * sizeof *in);
            edgec_row_ready(to, p->in_size);
            in += p->in_size;
        }
        if (count == 2) {
            edgec_two_rows_s16(&rows, copy, out);
        } else {
            edgec_one_row_s16(&rows, copy, out);
        }
        row += count;
        out += count * p->out_size;
    }
}

/* row . b and row . c, all dense. */
static inline void two_dots(
    const int16_t *row, const int16_t *b, const int16_t *c, int32_t size, int64_t sums[2]) {
    int64_t s0 = 0;
    int64_t s1 = 0;
#if defined(EDGEC_HELIUM)
    for (int32_t i = 0; i < size; i += 8) {
        const mve_pred16_t lanes = vctp16q((uint32_t)(size - i));
        const int16x8_t x = vldrhq_z_s16(row + i, lanes);
        s0 = vmlaldavaq_s16(s0, x, vldrhq_z_s16(b + i, lanes));
        s1 = vmlaldavaq_s16(s1, x, vldrhq_z_s16(c + i, lanes));
    }
#else
#if defined(EDGEC_SMLAD)
    for (; size >= 2; size -= 2) {
        const int32_t x = edgec_load_pair(row);
        s0 = __smlald(x, edgec_load_pair(b), s0);
        s1 = __smlald(x, edgec_load_pair(c), s1);
        row += 2;
        b += 2;
        c += 2;
    }
#endif
    for (int32_t i = 0; i < size; ++i) {
        s0 += row[i] * b[i];
        s1 += row[i] * c[i];
    }
#endif
    sums[0] = s0;
    sums[1] = s1;
}

/* An element of b. */
static inline int16_t element(const edgec_matmul_s16_params *p, const void *b, int32_t at) {
    return p->b_width == 1 ? ((const int8_t *)b)[at] : ((const int16_t *)b)[at];
}

/* One matrix times another, which begins at element `first` of b; rows of the first are dense, four
 * columns of the second are gathered. */
static void dense_product(
    const edgec_matmul_s16_params *p, const int16_t *a, const void *b, int32_t first,
    int16_t *out, int16_t *columns) {
    for (int32_t column = 0; column < p->columns; column += 4) {
        const int32_t width = p->columns - column < 4 ? p->columns - column : 4;
        for (int32_t j = 0; j < 4; ++j) {
            /* past the end, the last column is repeated */
            const int32_t from = first + (column + (j < width ? j : width - 1)) * p->b_column;
            int16_t *to = columns + j * p->inner;
            for (int32_t i = 0; i < p->inner; ++i) {
                to[i] = element(p, b, from + i * p->b_inner);
            }
        }
        for (int32_t row = 0; row < p->rows; ++row) {
            int16_t *to = out + row * p->columns + column;
            int64_t sums[4];
            for (int32_t j = 0; j < width; j += 2) {
                const int16_t *pair = columns + j * p->inner;
                two_dots(a + row * p->a_row, pair, pair + p->inner, p->inner, sums + j);
            }
            for (int32_t j = 0; j < width; ++j) {
                const int32_t scaled = edgec_scale_long(sums[j], p->mantissa, p->exponent);
                to[j] = edgec_clamp_s16(scaled, p->low, p->high);
            }
        }
    }
}

static void any_product(
    const edgec_matmul_s16_params *p, const int16_t *a, const void *b, int32_t first,
    int16_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        for (int32_t column = 0; column < p->columns; ++column) {
            const int16_t *left = a + row * p->a_row;
            const int32_t right = first + column * p->b_column;
            int64_t sum = 0;
            for (int32_t i = 0; i < p->inner; ++i) {
                sum += left[i * p->a_inner] * element(p, b, right + i * p->b_inner);
            }
            const int32_t scaled = edgec_scale_long(sum, p->mantissa, p->exponent);
            *out++ = edgec_clamp_s16(scaled, p->low, p->high);
        }
    }
}

void edgec_matmul_s16(
    const edgec_matmul_s16_params *p, const int16_t *a, const void *b, int16_t *out,
    void *scratch) {
    for (int32_t i = 0; i < p->batch[0]; ++i) {
        for (int32_t j = 0; j < p->batch[1]; ++j) {
            for (int32_t k = 0; k < p->batch[2]; ++k) {
                const int16_t *left =
                    a + i * p->a_batch[0] + j * p->a_batch[1] + k * p->a_batch[2];
                const int32_t first =
                    i * p->b_batch[0] + j * p->b_batch[1] + k * p->b_batch[2];
                if (p->a_inner == 1) {
                    dense_product(p, left, b, first, out, (int16_t *)scratch);
                } else {
                    any_product(p, left, b, first, out);
                }
                out += p->rows * p->columns;
            }
        }
    }
}
