/* How ranks keep in step, for shared_memory.c: each posts, and waits until all have posted as often.
 *
 * What one wrote before it posted, the others see after they have seen the post. Nothing else orders the ranks.
 */
#ifndef NPDP_POSTING_H
#define NPDP_POSTING_H

#include <sched.h>
#include <stdint.h>

#include "layout.h"
#include "npdp_shared_memory.h"
#include "waiting.h"

/* Says that this rank has done the work of a phase. */
static void post(npdp_host *host)
{
    line *mine = line_of(host, host->rank);
    __atomic_store_n(&mine->posted, ++host->posted, __ATOMIC_SEQ_CST);
    wake(&mine->posted, &mine->sleepers);
}

/* Whether the rank of this line has posted as often as this one; counts may wrap. */
static int has_posted(const npdp_host *host, line *theirs)
{
    return (int32_t)(__atomic_load_n(&theirs->posted, __ATOMIC_ACQUIRE) - host->posted) >= 0;
}

static void sleep_until_posted(npdp_host *host, line *theirs)
{
    const uint32_t seen = __atomic_load_n(&theirs->posted, __ATOMIC_SEQ_CST);
    if ((int32_t)(seen - host->posted) < 0)
        sleep_while(&theirs->posted, &theirs->sleepers, seen, host->until_s - now_s());
}

/* Waits for a rank: spins, yields, sleeps once; returns whether it has posted. A yield may take as long as others, who
 * use the core, are let: so there are no more when the time of this call is over. */
static int wait_for(npdp_host *host, line *theirs)
{
    for (uint32_t i = 0; i < host->spins && !host->patient; i++) {
        if (has_posted(host, theirs))
            return 1;
        look_again_soon();
    }
    for (uint32_t i = 0; i < host->yields && !host->patient && now_s() < host->until_s; i++) {
        sched_yield();
        if (has_posted(host, theirs))
            return 1;
    }
    sleep_until_posted(host, theirs);
    return has_posted(host, theirs);
}

/* Waits, until the time of this call is over; returns whether all have posted as often as this one. */
static int all_have_posted(npdp_host *host)
{
    double begun = 0;
    int all = 1;
    for (uint32_t rank = 0; all && rank < host->ranks; rank++) {
        line *theirs = line_of(host, rank);
        if (has_posted(host, theirs))
            continue;
        begun = begun > 0 ? begun : now_s();
        all = wait_for(host, theirs) && now_s() < host->until_s; /* many may come one by one */
    }
    if (begun > 0)
        host->wait_s += now_s() - begun;
    host->patient = !all;
    return all;
}

#endif
