/* Waiting for a word in memory that another process writes: look again soon, or sleep until it is woken. */
#ifndef NPDP_WAITING_H
#define NPDP_WAITING_H

#include <limits.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

static inline void look_again_soon(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Sleeps until woken, at most so long; not at all where the word is no longer `seen`. `sleepers` counts who sleeps. */
static inline void sleep_while(uint32_t *word, uint32_t *sleepers, uint32_t seen, double longest_s)
{
    if (longest_s <= 0)
        return;
#ifdef __linux__
    const time_t whole_s = (time_t)longest_s;
    const struct timespec longest = {whole_s, (long)(1e9 * (longest_s - (double)whole_s))};
    __atomic_add_fetch(sleepers, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &longest, NULL, 0);
    __atomic_sub_fetch(sleepers, 1, __ATOMIC_SEQ_CST);
#else
    const struct timespec short_sleep = {0, 100 * 1000};
    (void)word, (void)sleepers, (void)seen;
    nanosleep(&short_sleep, NULL);
#endif
}

/* Wakes all that sleep on the word, which has just been written. */
static inline void wake(uint32_t *word, const uint32_t *sleepers)
{
#ifdef __linux__
    if (__atomic_load_n(sleepers, __ATOMIC_SEQ_CST))
        syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
#else
    (void)word, (void)sleepers;
#endif
}

static inline double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
