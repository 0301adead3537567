/* Square roots of integers. */
#ifndef EDGEC_ROOT_H
#define EDGEC_ROOT_H

#include <stdint.h>

/* The integer part of the square root of x in [2^60, 2^62): 31 bits, one after the other. */
static inline uint32_t edgec_root(uint64_t x) {
    uint64_t root = 0;
    for (uint64_t bit = (uint64_t)1 << 60; bit != 0; bit >>= 2) {
        if (x >= root + bit) {
            x -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return (uint32_t)root;
}

/* 2^61 over the square root of x, with x brought to [2^60, 2^62) by `pairs` shifts of 2; x > 0. */
static inline int32_t edgec_inverse_root(uint64_t x, int32_t *pairs) {
    *pairs = 0;
    while (x < (uint64_t)1 << 60) {
        x <<= 2;
        ++*pairs;
    }
    return (int32_t)((((uint64_t)1 << 61) - 1) / edgec_root(x));
}

#endif
