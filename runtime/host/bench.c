/* Times a network on a machine with an operating system; speaks in lines of words.
 *
 *   bench RUNS WARMUP STEP_RUNS METER_SECONDS
 *
 * self-test WRONG, output INDEX HEX, sample NS, step INDEX NS, rss BYTES and, where METER_SECONDS
 * is not zero, idle SECONDS SECONDS and loop SECONDS SECONDS COUNT: when, since the machine was
 * started, nothing ran and the network ran without a pause, for whoever reads a power meter.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#undef main /* the compiler is told to call that of the self-test otherwise */
#include "edgec_bench_network.h"

#define MOST_SECONDS 3600 /* nobody waits longer: SIGALRM ends the program */

int edgec_self_test(void);

extern int64_t *edgec_step_times;

NETWORK_DECLARE_ARENAS(arena);
static int64_t step_times[NETWORK_STEPS];

static int64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static double uptime(void) {
    return (double)nanoseconds(CLOCK_BOOTTIME) / 1e9;
}

static int64_t infer(void) {
    const int64_t start = nanoseconds(CLOCK_MONOTONIC);
    network_load(arena);
    NETWORK_RUN(arena);
    return nanoseconds(CLOCK_MONOTONIC) - start;
}

static void meter(int seconds) {
    const double asleep = uptime();
    sleep(1);
    printf("idle %.3f %.3f\n", asleep, uptime());
    long count = 0;
    const double start = uptime();
    double now = start;
    for (; now < start + seconds; now = uptime()) {
        infer();
        ++count;
    }
    printf("loop %.3f %.3f %ld\n", start, now, count);
}

int main(int count, char **words) {
    if (count != 5) {
        fprintf(stderr, "usage: %s RUNS WARMUP STEP_RUNS METER_SECONDS\n", words[0]);
        return 2;
    }
    const int runs = atoi(words[1]), warmup = atoi(words[2]);
    const int step_runs = atoi(words[3]), seconds = atoi(words[4]);
    alarm(MOST_SECONDS);
    const int wrong = edgec_self_test();
    printf("self-test %d\n", wrong);
    infer();
    for (int i = 0; i < NETWORK_OUTPUTS; ++i) {
        size_t size;
        const unsigned char *bytes = network_output(i, arena, &size);
        printf("output %d ", i);
        for (size_t k = 0; k < size; ++k) {
            printf("%02x", bytes[k]);
        }
        printf("\n");
    }
    for (int i = 0; i < warmup; ++i) {
        infer();
    }
    for (int i = 0; i < runs; ++i) {
        printf("sample %" PRId64 "\n", infer());
    }
    if (seconds > 0) {
        meter(seconds);
    }
    edgec_step_times = step_times;
    for (int i = 0; i < step_runs; ++i) {
        infer();
    }
    for (int i = 0; i < NETWORK_STEPS; ++i) {
        printf("step %d %" PRId64 "\n", i, step_times[i] / (step_runs > 0 ? step_runs : 1));
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("rss %" PRId64 "\n", (int64_t)used.ru_maxrss * 1024);
    return fflush(stdout) != 0;
}
