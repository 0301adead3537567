/* Start-up, output and instruction counts for Cortex-M boards in QEMU; of the C library, only memcpy
 * and its like are used.
 *
 * QEMU runs with -icount shift=0, so that SysTick advances by the instructions executed; how many
 * there are to a tick is found by running a loop of known length.
 *
 * Images are measured with what is here in them: it is kept small.
 */
#ifdef __GNUC__
#pragma GCC optimize("Os")
#endif
#include <stddef.h>
#include <stdint.h>

#define SYST_CSR (*(volatile uint32_t *)0xE000E010)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018)
#define CPACR (*(volatile uint32_t *)0xE000ED88)
#define CCR (*(volatile uint32_t *)0xE000ED14)
#define RELOAD 0xFFFFFFu
#define PAINT 0xC5C5C5C5u
#define CALIBRATION_LOOPS 400000u
#ifndef EDGEC_MOST_STEPS
#define EDGEC_MOST_STEPS 1
#endif

extern uint32_t __bss_start, __bss_end, __stack_bottom, __stack_top;
int main(void);

static volatile uint32_t wraps;
static uint64_t step_ticks[EDGEC_MOST_STEPS];
static uint64_t last_ticks;

static long semihost(long operation, const void *argument) {
    register long r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void edgec_say(const char *text) { semihost(0x04, text); }

/* A space and hexadecimal digits, which need no division. */
static void say_number(uint64_t number) {
    char text[18];
    int at = 17;
    text[at] = '\0';
    do {
        const uint32_t digit = (uint32_t)number & 15u;
        text[--at] = (char)(digit < 10u ? '0' + digit : 'a' - 10u + digit);
        number >>= 4;
    } while (number != 0u);
    text[--at] = ' ';
    edgec_say(text + at);
}

static uint64_t ticks(void) {
    uint32_t before;
    uint32_t value;
    do {
        before = wraps;
        value = SYST_CVR;
    } while (before != wraps);
    return (uint64_t)before * (RELOAD + 1u) + (RELOAD - value);
}

void edgec_profile_step(int32_t step) {
    const uint64_t now = ticks();
    if (step > 0 && step <= EDGEC_MOST_STEPS) {
        step_ticks[step - 1] += now - last_ticks;
    }
    last_ticks = ticks();
}

static void leave(int status) {
    const uint32_t arguments[2] = {0x20026u, (uint32_t)status};
    semihost(0x20, arguments);
    for (;;) {
    }
}

void systick(void) { ++wraps; }

void fault(void) {
    edgec_say("edgec fault\n");
    leave(99);
}

void reset(void) {
    CPACR |= 0xFu << 20;
#ifdef __ARM_FEATURE_MVE
    CCR |= 1u << 19;
#endif
    __asm__ volatile("dsb\n isb");
    /* volatile: no memset in their place, which an image may be without */
    for (volatile uint32_t *word = &__bss_start; word < &__bss_end; ++word) {
        *word = 0u;
    }
    uint32_t *here;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    for (volatile uint32_t *word = &__stack_bottom; word < here - 16; ++word) {
        *word = PAINT;
    }
    SYST_RVR = RELOAD;
    SYST_CVR = 0u;
    SYST_CSR = 7u;
    while (SYST_CVR == 0u) {
    }
    const uint64_t start = ticks();
    __asm__ volatile("mov r0, %0\n1: subs r0, r0, #1\n bne 1b" : : "r"(CALIBRATION_LOOPS) : "r0", "cc");
    const uint64_t calibration = ticks() - start;
    const int status = main();
    const uint32_t *used = &__stack_bottom;
    while (used < &__stack_top && *used == PAINT) {
        ++used;
    }
    /* instructions and ticks of the known loop, bytes of stack, ticks of each step */
    edgec_say("edgec-count");
    say_number(2u * CALIBRATION_LOOPS);
    say_number(calibration);
    say_number((uint64_t)(&__stack_top - used) * 4u);
    for (int step = 0; step < EDGEC_MOST_STEPS; ++step) {
        say_number(step_ticks[step]);
    }
    edgec_say("\n");
    leave(status);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &__stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault,
    NULL, NULL, NULL, (const void *)fault, (const void *)fault, NULL, (const void *)fault,
    (const void *)systick,
};
