/* A STAND-IN for CUDA's runtime library: device memory is host memory. */
#include <stdlib.h>
#include <string.h>

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 0)
        return 101;
    *value = attribute == 75 ? 8 : 7; /* compute capability 8.7 */
    return 0;
}
const char *cudaGetErrorString(int status) { return status ? "STAND-IN error" : "no error"; }
int cudaMalloc(void **pointer, size_t size) {
    *pointer = size > ((size_t)1 << 30) ? NULL : malloc(size);
    return *pointer ? 0 : 2;
}
int cudaFree(void *pointer) {
    free(pointer);
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    if (kind != 1 && kind != 2)
        return 21;
    memcpy(to, from, size);
    return 0;
}
int cudaStreamCreate(void **stream) {
    static int one;
    *stream = &one;
    return 0;
}
int cudaStreamSynchronize(void *stream) { return stream ? 0 : 400; }
