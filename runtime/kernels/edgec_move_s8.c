/* Elements to other places, unchanged. */
#include <string.h>

#include "edgec_kernels.h"

/* The source may begin within the target, or lie apart. */
static inline void move_down(int8_t *to, const int8_t *from, int32_t size) {
    if (size > 4 && (uintptr_t)from - (uintptr_t)to >= (uintptr_t)size) {
        memcpy(to, from, (size_t)size);
        return;
    }
    for (int32_t i = 0; i < size; ++i) {
        to[i] = from[i];
    }
}

void edgec_strided_copy_s8(const edgec_strided_copy_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t a = 0; a < p->shape[0]; ++a) {
        for (int32_t b = 0; b < p->shape[1]; ++b) {
            for (int32_t c = 0; c < p->shape[2]; ++c) {
                for (int32_t d = 0; d < p->shape[3]; ++d) {
                    const int8_t *x = in + p->start + a * p->stride[0] + b * p->stride[1] +
                                      c * p->stride[2] + d * p->stride[3];
                    const int32_t count = p->shape[4];
                    const int32_t stride = p->stride[4];
                    if (p->run == 1) {
                        for (int32_t e = 0; e < count; ++e) {
                            *out++ = x[e * stride];
                        }
                        continue;
                    }
                    for (int32_t e = 0; e < count; ++e) {
                        move_down(out, x + e * stride, p->run);
                        out += p->run;
                    }
                }
            }
        }
    }
}

void edgec_pad_s8(const edgec_pad_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t a = 0; a < p->out_shape[0]; ++a) {
        for (int32_t b = 0; b < p->out_shape[1]; ++b) {
            for (int32_t c = 0; c < p->out_shape[2]; ++c) {
                const int32_t i = a - p->before[0];
                const int32_t j = b - p->before[1];
                const int32_t k = c - p->before[2];
                const int inside = i >= 0 && i < p->in_shape[0] && j >= 0 && j < p->in_shape[1] &&
                                   k >= 0 && k < p->in_shape[2];
                if (p->width == 1) {
                    memset(out, p->fill, (size_t)p->out_shape[3]);
                } else if (p->width == 2) {
                    const int16_t fill = (int16_t)p->fill;
                    for (int32_t d = 0; d < p->out_shape[3]; d += 2) {
                        memcpy(out + d, &fill, sizeof fill);
                    }
                } else {
                    for (int32_t d = 0; d < p->out_shape[3]; d += 4) {
                        memcpy(out + d, &p->fill, sizeof p->fill);
                    }
                }
                if (inside) {
                    const int32_t at =
                        ((i * p->in_shape[1] + j) * p->in_shape[2] + k) * p->in_shape[3];
                    memcpy(out + p->before[3], in + at, (size_t)p->in_shape[3]);
                }
                out += p->out_shape[3];
            }
        }
    }
}

void edgec_concat_s8(const edgec_concat_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        memcpy(out + row * p->out_row + p->start, in, (size_t)p->in_row);
        in += p->in_row;
    }
}

void edgec_gather_s8(const edgec_gather_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->count; ++i) {
            memcpy(out, in + (o * p->axis + p->indices[i]) * p->inner, (size_t)p->inner);
            out += p->inner;
        }
    }
}
