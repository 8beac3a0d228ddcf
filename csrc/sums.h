/* Sums, or other ops, over the arrays of all ranks, for shared_memory.c: from host's sources to its targets. */
#ifndef NPDP_SUMS_H
#define NPDP_SUMS_H

#include "layout.h"
#include "npdp_kernels.h"
#include "npdp_shared_memory.h"
#include "ways.h"

enum { SUM_TO_BOTH, SUM_AND_WRITE };

static void **sources(const npdp_host *host)
{
    return host->pointers + host->ranks + 1; /* a rank alone has two targets as well */
}

/* Looks at the sum that it makes; what it sees is for all ranks to know. */
static void sum_looking(npdp_host *host, size_t target_count, size_t start, size_t nbytes)
{
    void *const *targets = host->pointers;
    const void *const *from = (const void *const *)sources(host);
    const size_t count = nbytes / size_of(host), at = start / size_of(host);
    if (host->dtype == NPDP_F32 ? npdp_sum_looking_f32(targets, target_count, from, host->ranks, count, at, host->firsts)
                                : npdp_sum_looking_f64(targets, target_count, from, host->ranks, count, at, host->firsts))
        __atomic_store_n(&line_of(host, host->rank)->not_finite, host->begun, __ATOMIC_RELAXED);
}

/* What begins with byte `start` of the buffer. */
static void combine(npdp_host *host, size_t target_count, size_t start, size_t nbytes)
{
    if (host->looking)
        sum_looking(host, target_count, start, nbytes);
    else
        npdp_combine(host->op, host->dtype, host->pointers, target_count, (const void *const *)sources(host), host->ranks,
                 nbytes / size_of(host));
}

/* To this rank's buffer and slot at once, or to the buffer and from there to the slot, whichever is quicker of late. */
static void sum_one_way(npdp_host *host, size_t start, size_t nbytes)
{
    if (nbytes < TIMED_BYTES) {
        combine(host, 2, start, nbytes);
        return;
    }
    const int way = way_now(&host->sums);
    const double begun = now_s();
    combine(host, way == SUM_TO_BOTH ? 2 : 1, start, nbytes);
    if (way == SUM_AND_WRITE)
        write_slot(host, host->pointers[1], host->pointers[0], nbytes);
    took(&host->sums, way, now_s() - begun, nbytes);
}

#endif
