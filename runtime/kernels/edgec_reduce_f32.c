/* Pools, reductions, softmax and norms in single precision. */
#include "edgec_kernels_f32.h"
#include "edgec_math_f32.h"

static float clamped(const edgec_pool_f32_params *p, float x) {
    return x < p->low ? p->low : (x > p->high ? p->high : x);
}

static inline void pool(const edgec_pool_f32_params *p, const float *in, float *out, int average) {
    for (int32_t n = 0; n < p->batch; ++n) {
        for (int32_t y = 0; y < p->out_h; ++y) {
            for (int32_t x = 0; x < p->out_w; ++x) {
                for (int32_t c = 0; c < p->channels; ++c) {
                    float sum = 0.0f;
                    float most = -INFINITY;
                    int32_t count = 0;
                    for (int32_t i = 0; i < p->k_h; ++i) {
                        const int32_t row = y * p->stride_h - p->pad_h + i;
                        for (int32_t j = 0; j < p->k_w; ++j) {
                            const int32_t column = x * p->stride_w - p->pad_w + j;
                            if (row < 0 || row >= p->in_h || column < 0 || column >= p->in_w) {
                                continue;
                            }
                            const float v = in[(row * p->in_w + column) * p->channels + c];
                            sum += v;
                            most = v > most ? v : most;
                            ++count;
                        }
                    }
                    *out++ = clamped(p, average ? sum / (float)count : most);
                }
            }
        }
        in += p->in_h * p->in_w * p->channels;
    }
}

void edgec_average_pool_f32(const edgec_pool_f32_params *p, const float *in, float *out) {
    pool(p, in, out, 1);
}

void edgec_max_pool_f32(const edgec_pool_f32_params *p, const float *in, float *out) {
    pool(p, in, out, 0);
}

typedef enum { MEAN, SUM, LARGEST, SMALLEST } reduction;

static inline void reduce(
    const edgec_reduce_f32_params *p, const float *in, float *out, reduction kind) {
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            float found = kind == MEAN || kind == SUM ? 0.0f : in[i];
            for (int32_t n = 0; n < p->count; ++n) {
                const float x = in[n * p->inner + i];
                if (kind == MEAN || kind == SUM) {
                    found += x;
                } else if (kind == LARGEST ? x > found : x < found) {
                    found = x;
                }
            }
            *out++ = kind == MEAN ? found / (float)p->count : found;
        }
        in += p->count * p->inner;
    }
}

void edgec_mean_f32(const edgec_reduce_f32_params *p, const float *in, float *out) {
    reduce(p, in, out, MEAN);
}

void edgec_sum_f32(const edgec_reduce_f32_params *p, const float *in, float *out) {
    reduce(p, in, out, SUM);
}

void edgec_reduce_max_f32(const edgec_reduce_f32_params *p, const float *in, float *out) {
    reduce(p, in, out, LARGEST);
}

void edgec_reduce_min_f32(const edgec_reduce_f32_params *p, const float *in, float *out) {
    reduce(p, in, out, SMALLEST);
}

/* Exponentials of a row into `out`, relative to the largest; returns their sum. */
static float exponentials(const edgec_rows_f32_params *p, const float *in, float *out) {
    float most = in[0];
    float total = 0.0f;
    for (int32_t i = 1; i < p->size; ++i) {
        most = in[i] > most ? in[i] : most;
    }
    for (int32_t i = 0; i < p->size; ++i) {
        out[i] = edgec_exp((in[i] - most) * p->beta);
        total += out[i];
    }
    return total;
}

void edgec_softmax_f32(const edgec_rows_f32_params *p, const float *in, float *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        const float total = exponentials(p, in, out);
        for (int32_t i = 0; i < p->size; ++i) {
            out[i] /= total;
        }
        in += p->size;
        out += p->size;
    }
}

void edgec_log_softmax_f32(const edgec_rows_f32_params *p, const float *in, float *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        float most = in[0];
        float total = 0.0f;
        for (int32_t i = 1; i < p->size; ++i) {
            most = in[i] > most ? in[i] : most;
        }
        for (int32_t i = 0; i < p->size; ++i) {
            total += edgec_exp(in[i] - most);
        }
        const float offset = most + edgec_log(total);
        for (int32_t i = 0; i < p->size; ++i) {
            out[i] = in[i] - offset;
        }
        in += p->size;
        out += p->size;
    }
}

void edgec_l2_norm_f32(const edgec_rows_f32_params *p, const float *in, float *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        float squares = 0.0f;
        for (int32_t i = 0; i < p->size; ++i) {
            squares += in[i] * in[i];
        }
        /* the smallest norm is TFLite's */
        const float norm = sqrtf(squares);
        const float divisor = norm > 1e-6f ? norm : 1e-6f;
        for (int32_t i = 0; i < p->size; ++i) {
            out[i] = in[i] / divisor;
        }
        in += p->size;
        out += p->size;
    }
}

void edgec_layer_norm_f32(const edgec_layer_norm_f32_params *p, const float *in, float *out) {
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t i = 0; i < p->inner; ++i) {
            float sum = 0.0f;
            for (int32_t n = 0; n < p->count; ++n) {
                sum += in[n * p->inner + i];
            }
            const float mean = sum / (float)p->count;
            float squares = 0.0f;
            for (int32_t n = 0; n < p->count; ++n) {
                const float centred = in[n * p->inner + i] - mean;
                squares += centred * centred;
            }
            const float factor = 1.0f / sqrtf(squares / (float)p->count + p->epsilon);
            for (int32_t n = 0; n < p->count; ++n) {
                const int32_t at = n * p->inner + i;
                const int32_t entry = at % p->period;
                out[at] = (in[at] - mean) * factor * p->gain[entry] + p->offset[entry];
            }
        }
        in += p->count * p->inner;
        out += p->count * p->inner;
    }
}
