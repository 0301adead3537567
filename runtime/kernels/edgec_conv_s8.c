/* Convolutions on int8: windows are gathered into rows, two at a time, and multiplied. */
#include <string.h>

#include "edgec_rows_s8.h"
#ifdef EDGEC_CMSIS_NN
#include "edgec_cmsis_nn.h"
#endif

/* The window of output (y, x), channels first .. first + depth, as one row. */
static void gather(
    const edgec_conv_s8_params *p, const int8_t *in, int32_t y, int32_t x, int32_t first,
    int32_t depth, int8_t *row) {
    if (p->k_h * p->k_w == 1 && (p->pad_h | p->pad_w) == 0) {
        const int32_t pixel = y * p->stride_h * p->in_w + x * p->stride_w;
        edgec_copy_s8(row, in + pixel * p->in_c + first, depth);
        return;
    }
    const int32_t top = y * p->stride_h - p->pad_h;
    const int32_t left = x * p->stride_w - p->pad_w;
    const int whole = depth == p->in_c && p->dilation_w == 1 && left >= 0 &&
                      left + p->k_w <= p->in_w;
    for (int32_t i = 0; i < p->k_h; ++i) {
        const int32_t line = top + i * p->dilation_h;
        if (line < 0 || line >= p->in_h) {
            memset(row, p->in_zero, (size_t)(p->k_w * depth));
            row += p->k_w * depth;
            continue;
        }
        const int8_t *from = in + line * p->in_w * p->in_c + first;
        if (whole) {
            edgec_copy_s8(row, from + left * p->in_c, p->k_w * depth);
            row += p->k_w * depth;
            continue;
        }
        for (int32_t j = 0; j < p->k_w; ++j) {
            const int32_t column = left + j * p->dilation_w;
            if (column < 0 || column >= p->in_w) {
                memset(row, p->in_zero, (size_t)depth);
            } else {
                edgec_copy_s8(row, from + column * p->in_c, depth);
            }
            row += depth;
        }
    }
}

void edgec_conv_s8(
    const edgec_conv_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch) {
    const int32_t depth = p->in_c / p->groups;
    const int32_t per_group = p->out_c / p->groups;
    edgec_rows_s8 rows = {0};
    rows.size = p->k_h * p->k_w * depth;
    rows.columns = per_group;
    rows.out_stride = p->out_c;
    rows.out_zero = p->out_zero;
    rows.low = p->low;
    rows.high = p->high;
    rows.wide = p->wide;
    rows.bias_width = p->bias_width;
#ifdef EDGEC_CMSIS_NN
    const int32_t bytes = rows.size <= EDGEC_MOST_PAIRED ? 5 * rows.size : rows.size;
    if (edgec_cmsis_conv_s8(p, in, out, scratch, bytes) != 0) {
        return;
    }
#endif
    /* with groups, the first one is written before the window of the next is read */
    const int32_t together = p->groups == 1 && edgec_in_pairs(&rows) ? 2 : 1;
    const edgec_range range = edgec_range_of(p->low, p->high);
    for (int32_t n = 0; n < p->batch; ++n) {
        int32_t y = 0;
        int32_t x = 0;
        int32_t left = p->out_h * p->out_w;
        while (left > 0) {
            const int32_t count = left < together ? left : together;
            const int32_t next_x = x + 1 < p->out_w ? x + 1 : 0;
            const int32_t next_y = next_x != 0 ? y : y + 1;
            for (int32_t g = 0; g < p->groups; ++g) {
                rows.weights = p->weights + g * per_group * rows.size;
                rows.bias = (const int8_t *)p->bias + g * per_group * p->bias_width;
                rows.mantissa = p->scales.mantissa + g * per_group;
                rows.exponent = p->scales.exponent + g * per_group;
                if (count == 2) {
                    gather(p, in, y, x, 0, depth, edgec_pair_place(scratch, rows.size, 0));
                    edgec_pair_ready(scratch, rows.size, 0);
                    gather(
                        p, in, next_y, next_x, 0, depth, edgec_pair_place(scratch, rows.size, 1));
                    edgec_pair_ready(scratch, rows.size, 1);
                    if (range == EDGEC_WHOLE_RANGE) {
                        edgec_two_rows_s8(&rows, scratch, out, EDGEC_TWICE, EDGEC_WHOLE_RANGE);
                    } else {
                        edgec_two_rows_s8(&rows, scratch, out, EDGEC_TWICE, EDGEC_LIMITS);
                    }
                } else {
                    gather(p, in, y, x, g * depth, depth, scratch);
                    if (rows.wide) {
                        rows.wide(&rows, scratch, out + g * per_group);
                    } else {
                        edgec_one_row_s8(&rows, scratch, out + g * per_group, EDGEC_TWICE);
                    }
                }
            }
            y = next_y;
            x = next_x;
            if (count == 2) {
                x = next_x + 1 < p->out_w ? next_x + 1 : 0;
                y = x != 0 ? next_y : next_y + 1;
            }
            left -= count;
            out += count * p->out_c;
        }
        in += p->in_h * p->in_w * p->in_c;
    }
}
