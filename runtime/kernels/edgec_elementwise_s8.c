/* Element by element on int8. */
#include "edgec_kernels.h"

typedef int8_t edgec_element;

#include "edgec_binary.h"

static EDGEC_INLINE int32_t combined(operation op, const scaling *s, int32_t a, int32_t b) {
    if (op == ADD || op == SUBTRACT || op == SQUARED_DIFFERENCE) {
        a = edgec_multiply(&s->a, a);
        b = edgec_multiply(&s->b, b);
    }
    switch (op) {
    case ADD:
        return a + b;
    case SUBTRACT:
        return a - b;
    case MULTIPLY:
        return a * b;
    case SQUARED_DIFFERENCE:
        return (a - b) * (a - b);
    case MAXIMUM:
        return a > b ? a : b;
    default:
        return a < b ? a : b;
    }
}

#if defined(EDGEC_HELIUM)
static EDGEC_INLINE int32x4_t combined_4(operation op, const scaling *s, int32x4_t a, int32x4_t b) {
    if (op == ADD || op == SUBTRACT || op == SQUARED_DIFFERENCE) {
        a = edgec_multiply_4(&s->a, a);
        b = edgec_multiply_4(&s->b, b);
    }
    switch (op) {
    case ADD:
        return vaddq_s32(a, b);
    case SUBTRACT:
        return vsubq_s32(a, b);
    case MULTIPLY:
        return vmulq_s32(a, b);
    case SQUARED_DIFFERENCE:
        return vmulq_s32(vsubq_s32(a, b), vsubq_s32(a, b));
    case MAXIMUM:
        return vmaxq_s32(a, b);
    default:
        return vminq_s32(a, b);
    }
}

/* Four neighbours, or one element four times where it is broadcast. */
static EDGEC_INLINE int32x4_t load_4(
    const int8_t *from, int32_t stride, uint32x4_t offsets, mve_pred16_t lanes) {
    return stride == 1 ? vldrbq_z_s32(from, lanes)
                       : vldrbq_gather_offset_z_s32(from, offsets, lanes);
}
#endif

/* The innermost loop. */
static EDGEC_INLINE void line(
    operation op, const edgec_binary_s8_params *p, const scaling *s, const int8_t *a,
    const int8_t *b, int8_t *out) {
    const int32_t count = p->shape[3];
    const int32_t a_stride = p->a_stride[3];
    const int32_t b_stride = p->b_stride[3];
#if defined(EDGEC_HELIUM)
    const uint32x4_t lane = vidupq_n_u32(0, 1);
    const uint32x4_t a_offsets = vmulq_n_u32(lane, (uint32_t)a_stride);
    const uint32x4_t b_offsets = vmulq_n_u32(lane, (uint32_t)b_stride);
    for (int32_t i = 0; i < count; i += 4) {
        const mve_pred16_t lanes = vctp32q((uint32_t)(count - i));
        const int32x4_t x = vsubq_n_s32(load_4(a, a_stride, a_offsets, lanes), p->a_zero);
        const int32x4_t y = vsubq_n_s32(load_4(b, b_stride, b_offsets, lanes), p->b_zero);
        const int32x4_t scaled = edgec_multiply_4(&s->out, combined_4(op, s, x, y));
        vstrbq_p_s32(out + i, edgec_clamp_4(scaled, p->out_zero, p->low, p->high), lanes);
        a += 4 * a_stride;
        b += 4 * b_stride;
    }
#else
    for (int32_t i = 0; i < count; ++i) {
        const int32_t raw = combined(op, s, *a - p->a_zero, *b - p->b_zero);
        const int32_t scaled = edgec_multiply(&s->out, raw);
        out[i] = (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
        a += a_stride;
        b += b_stride;
    }
#endif
}

void edgec_add_s8(const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, ADD);
}

void edgec_sub_s8(const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, SUBTRACT);
}

void edgec_mul_s8(const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, MULTIPLY);
}

void edgec_squared_difference_s8(
    const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, SQUARED_DIFFERENCE);
}

void edgec_maximum_s8(
    const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, MAXIMUM);
}

void edgec_minimum_s8(
    const edgec_binary_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    run(p, a, b, out, MINIMUM);
}

void edgec_lookup_s8(const edgec_lookup_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t i = 0; i < p->count; ++i) {
        out[i] = p->table[in[i] + 128];
    }
}
