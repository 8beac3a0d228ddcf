/* Ways to write what another core reads next, for shared_memory.c, and which of two is the quicker here and now.
 *
 * Before a line is written, other cores must give it up. Where they share a cache, and none has it in one of its own, that
 * takes no time; else it may take ten times as long as to write past all caches to memory, where the other core reads it.
 * Systems move ranks from core to core: so both ways are timed. The result is the same. Measured: docs/measurements.md.
 */
#ifndef NPDP_WAYS_H
#define NPDP_WAYS_H

#include <string.h>

#include "internal.h"
#include "npdp_shared_memory.h"
#include "waiting.h"

#ifdef NPDP_WITH_X86
#include <immintrin.h>
#endif

/* TIMED_BYTES: less takes little longer than to look at the clock. The slower way is tried the more rarely the slower it is:
 * so it costs about as much as one in TRIED_EVERY more of the other, up to MOST_SLOWER times as slow */
enum { TIMED_BYTES = 4096, TRIED_EVERY = 32, MOST_SLOWER = 16 };
enum { IN_CACHES, PAST_CACHES };

/* What a byte takes of late: at once what is less, and little by little what is more, for a rank may be put aside. */
static double of_late(double before, double byte_s)
{
    if (before <= 0 || byte_s < before)
        return byte_s;
    return (3 * before + (byte_s < 2 * before ? byte_s : 2 * before)) / 4;
}

/* The second where it is clearly the quicker, else the first; but now and then the other. */
static int way_now(const npdp_ways *ways)
{
    const int quicker = ways->byte_s[1] < 0.7 * ways->byte_s[0];
    return ways->turns > 0 ? quicker : !quicker;
}

static void took(npdp_ways *ways, int way, double seconds, size_t nbytes)
{
    ways->byte_s[way] = of_late(ways->byte_s[way], seconds / (double)nbytes);
    if (ways->turns > 0) {
        ways->turns--;
        return;
    }
    const double other = ways->byte_s[!way], slower = other > 0 ? ways->byte_s[way] / other : 1;
    ways->turns = (uint32_t)(TRIED_EVERY * (slower < 1 ? 1 : slower < MOST_SLOWER ? slower : MOST_SLOWER));
}

/* The string instruction does not fetch the lines that it writes over; the C library takes it on Intel's processors, not on
 * AMD's. */
static void copy(const npdp_host *host, void *to, const void *from, size_t nbytes)
{
#ifdef NPDP_WITH_X86
    if (host->fast_strings && nbytes >= TIMED_BYTES) {
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(nbytes) : : "memory");
        return;
    }
#else
    (void)host;
#endif
    memcpy(to, from, nbytes);
}

#ifdef NPDP_WITH_X86
/* Where `to` begins a cache line, as all in slots does. */
static void copy_past_caches(unsigned char *to, const unsigned char *from, size_t nbytes)
{
    const size_t whole = nbytes / sizeof(__m128i) * sizeof(__m128i);
    for (size_t i = 0; i < whole; i += sizeof(__m128i))
        _mm_stream_si128((__m128i *)(void *)(to + i), _mm_loadu_si128((const __m128i *)(const void *)(from + i)));
    memcpy(to + whole, from + whole, nbytes - whole);
    _mm_sfence();
}
#endif

/* Writes to a slot what another rank reads. */
static void write_slot(npdp_host *host, unsigned char *to, const unsigned char *from, size_t nbytes)
{
#ifdef NPDP_WITH_X86
    if (nbytes >= TIMED_BYTES) {
        const int way = way_now(&host->writes);
        const double begun = now_s();
        if (way == PAST_CACHES)
            copy_past_caches(to, from, nbytes);
        else
            copy(host, to, from, nbytes);
        took(&host->writes, way, now_s() - begun, nbytes);
        return;
    }
#endif
    copy(host, to, from, nbytes);
}

#endif
