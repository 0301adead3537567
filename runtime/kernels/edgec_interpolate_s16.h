/* 513 values of a function of int16, and straight lines between them. */
#ifndef EDGEC_INTERPOLATE_S16_H
#define EDGEC_INTERPOLATE_S16_H

#include <stdint.h>

/* The high nine bits of x choose the line, the low seven the place on it. */
static inline int32_t edgec_interpolated(const int16_t *table, int32_t x) {
    const int16_t *line = table + 256 + (x >> 7);
    const int32_t rise = (line[1] - line[0]) * (x & 127);
    return line[0] + ((rise + 64) >> 7);
}

#endif
