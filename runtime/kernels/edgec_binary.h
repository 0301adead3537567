/* Two operands of up to four dimensions, element by element: the walk, whatever their type.
 *
 * The including file says what `edgec_element` is, and has the innermost loop, `line`.
 */
#ifndef EDGEC_BINARY_H
#define EDGEC_BINARY_H

#include "edgec_fixed_point.h"
#include "edgec_kernels.h"

typedef enum { ADD, SUBTRACT, MULTIPLY, SQUARED_DIFFERENCE, MAXIMUM, MINIMUM } operation;

/* The scales of the operands, where the operation needs them, and of the result. */
typedef struct {
    edgec_multiplier a, b, out;
} scaling;

static EDGEC_INLINE void line(
    operation op, const edgec_binary_s8_params *p, const scaling *s, const edgec_element *a,
    const edgec_element *b, edgec_element *out);

/* The operation is known at every call, so that compilers make a loop of its own for it. */
static EDGEC_INLINE void run(
    const edgec_binary_s8_params *given, const edgec_element *a, const edgec_element *b,
    edgec_element *out, operation op) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_binary_s8_params copy = *given;
    const edgec_binary_s8_params *const p = &copy;
    scaling s;
    s.a = edgec_multiplier_of(p->a_mantissa, p->a_exponent, p->shift);
    s.b = edgec_multiplier_of(p->b_mantissa, p->b_exponent, p->shift);
    s.out = edgec_multiplier_of(p->out_mantissa, p->out_exponent, 0);
    for (int32_t i = 0; i < p->shape[0]; ++i) {
        for (int32_t j = 0; j < p->shape[1]; ++j) {
            for (int32_t k = 0; k < p->shape[2]; ++k) {
                const int32_t x = i * p->a_stride[0] + j * p->a_stride[1] + k * p->a_stride[2];
                const int32_t y = i * p->b_stride[0] + j * p->b_stride[1] + k * p->b_stride[2];
                line(op, p, &s, a + x, b + y, out);
                out += p->shape[3];
            }
        }
    }
}

#endif
