/* Element by element on int16. */
#include "edgec_interpolate_s16.h"
#include "edgec_kernels_s16.h"

typedef int16_t edgec_element;

#include "edgec_binary.h"

static EDGEC_INLINE int32_t combined(operation op, const scaling *s, int32_t a, int32_t b) {
    switch (op) {
    case ADD:
        return edgec_multiply(&s->out, edgec_multiply(&s->a, a) + edgec_multiply(&s->b, b));
    case SUBTRACT:
        return edgec_multiply(&s->out, edgec_multiply(&s->a, a) - edgec_multiply(&s->b, b));
    case MULTIPLY:
        /* 2^30, which the lowest integers have, is one more than the fast form takes */
        return edgec_scale_wide(a * b, s->out.mantissa, -s->out.right);
    case MAXIMUM:
        return a > b ? a : b;
    default:
        return a < b ? a : b;
    }
}

#if defined(EDGEC_HELIUM)
static EDGEC_INLINE int32x4_t combined_4(operation op, const scaling *s, int32x4_t a, int32x4_t b) {
    switch (op) {
    case ADD:
        a = vaddq_s32(edgec_multiply_4(&s->a, a), edgec_multiply_4(&s->b, b));
        return edgec_multiply_4(&s->out, a);
    case SUBTRACT:
        a = vsubq_s32(edgec_multiply_4(&s->a, a), edgec_multiply_4(&s->b, b));
        return edgec_multiply_4(&s->out, a);
    case MULTIPLY:
        return edgec_multiply_4(&s->out, vmulq_s32(a, b));
    case MAXIMUM:
        return vmaxq_s32(a, b);
    default:
        return vminq_s32(a, b);
    }
}

/* Four neighbours, or one element four times where it is broadcast. */
static EDGEC_INLINE int32x4_t load_4(
    const int16_t *from, int32_t stride, uint32x4_t offsets, mve_pred16_t lanes) {
    return stride == 1 ? vldrhq_z_s32(from, lanes)
                       : vldrhq_gather_shifted_offset_z_s32(from, offsets, lanes);
}
#endif

/* The innermost loop. */
static EDGEC_INLINE void line(
    operation op, const edgec_binary_s8_params *p, const scaling *s, const int16_t *a,
    const int16_t *b, int16_t *out) {
    const int32_t count = p->shape[3];
    const int32_t a_stride = p->a_stride[3];
    const int32_t b_stride = p->b_stride[3];
#if defined(EDGEC_HELIUM)
    const uint32x4_t lane = vidupq_n_u32(0, 1);
    const uint32x4_t a_offsets = vmulq_n_u32(lane, (uint32_t)a_stride);
    const uint32x4_t b_offsets = vmulq_n_u32(lane, (uint32_t)b_stride);
    for (int32_t i = 0; i < count; i += 4) {
        const mve_pred16_t lanes = vctp32q((uint32_t)(count - i));
        const int32x4_t x = load_4(a, a_stride, a_offsets, lanes);
        const int32x4_t y = load_4(b, b_stride, b_offsets, lanes);
        const int32x4_t found = combined_4(op, s, x, y);
        vstrhq_p_s32(out + i, edgec_clamp_4(found, 0, p->low, p->high), lanes);
        a += 4 * a_stride;
        b += 4 * b_stride;
    }
#else
    for (int32_t i = 0; i < count; ++i) {
        const int32_t found = combined(op, s, *a, *b);
        out[i] = (int16_t)edgec_clamp(found, p->low, p->high);
        a += a_stride;
        b += b_stride;
    }
#endif
}

void edgec_add_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out) {
    run(p, a, b, out, ADD);
}

void edgec_sub_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out) {
    run(p, a, b, out, SUBTRACT);
}

void edgec_mul_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out) {
    run(p, a, b, out, MULTIPLY);
}

void edgec_maximum_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out) {
    run(p, a, b, out, MAXIMUM);
}

void edgec_minimum_s16(
    const edgec_binary_s8_params *p, const int16_t *a, const int16_t *b, int16_t *out) {
    run(p, a, b, out, MINIMUM);
}

void edgec_rescale_s16(const edgec_rescale_s16_params *p, const int16_t *in, int16_t *out) {
    const edgec_multiplier scale = edgec_multiplier_of(p->mantissa, p->exponent, 0);
    const int32_t count = p->count;
    const int32_t low = p->low;
    const int32_t high = p->high;
    for (int32_t i = 0; i < count; ++i) {
        out[i] = (int16_t)edgec_clamp(edgec_multiply(&scale, in[i]), low, high);
    }
}

void edgec_interpolate_s16(
    const edgec_interpolate_s16_params *p, const int16_t *in, int16_t *out) {
    const int16_t *const table = p->table;
    const int32_t count = p->count;
#if defined(EDGEC_HELIUM)
    for (int32_t i = 0; i < count; i += 4) {
        const mve_pred16_t lanes = vctp32q((uint32_t)(count - i));
        const int32x4_t x = vldrhq_z_s32(in + i, lanes);
        const uint32x4_t line = vreinterpretq_u32_s32(vaddq_n_s32(vshrq_n_s32(x, 7), 256));
        const int32x4_t first = vldrhq_gather_shifted_offset_z_s32(table, line, lanes);
        const int32x4_t second = vldrhq_gather_shifted_offset_z_s32(table + 1, line, lanes);
        const int32x4_t place = vandq_s32(x, vdupq_n_s32(127));
        const int32x4_t rise = vmulq_s32(vsubq_s32(second, first), place);
        vstrhq_p_s32(out + i, vaddq_s32(first, vrshrq_n_s32(rise, 7)), lanes);
    }
#else
    for (int32_t i = 0; i < count; ++i) {
        out[i] = (int16_t)edgec_interpolated(table, in[i]);
    }
#endif
}
