/* Collectives over memory that all ranks of a host map; the contract is in npdp_shared_memory.h.
 *
 * A collective is a row of phases: a rank does the work of a phase, posts, and begins the next one when all have posted
 * as often (posting.h). Where things lie, in the memory and in a buffer, is in layout.h.
 *
 *     direct    all arrays lie in this memory:  announce | sum my chunk over all arrays, into all of them | done
 *     staged    they do not; by segments:       take what is done of k - 2, sum my chunk of k - 1, put in k | ...
 *     small     put in | everybody sums everything: one post, not two
 *
 * A chunk that is summed directly is so in pieces, each of them a phase, but only the last of these is posted.
 */
#define _GNU_SOURCE
#include <string.h>

#include "internal.h"
#include "layout.h"
#include "npdp_kernels.h"
#include "npdp_shared_memory.h"
#include "posting.h"
#include "sums.h"
#include "waiting.h"
#include "ways.h"

enum { DIRECT, STAGED, SMALL };
/* Of all ranks' chunks together in a piece: DIRECT_BYTES where it is summed; a few of these phases take a millisecond,
 * then the clock is read. DIRECT_COPY_BYTES where it is copied: memcpy takes long copies past the caches, in two thirds of
 * the time; then the clock is read after each */
enum { SMALL_DIRECT_BYTES = 1024, DIRECT_BYTES = 1 << 20, DIRECT_COPY_BYTES = 1 << 26, PHASES_A_LOOK = 4 };

size_t npdp_header_bytes(uint32_t ranks, size_t longest_slot)
{
    return (size_t)ranks * (LINE_BYTES + TURNS * SMALL_BYTES + LONGEST_IN_RING * longest_slot);
}

static int sums(const npdp_host *host)
{
    return host->kind == NPDP_ALLREDUCE || host->kind == NPDP_REDUCE_SCATTER;
}

static int copies_directly(const npdp_host *host)
{
    return host->mode == DIRECT && !sums(host);
}

static int gathers(const npdp_host *host)
{
    return host->kind != NPDP_REDUCE_SCATTER && host->kind != NPDP_BARRIER;
}

/* ---- the work of a phase ---- */

static void put_in(npdp_host *host, uint32_t k)
{
    unsigned char *mine = slot(host, host->rank, k);
    for (uint32_t rank = 0; rank < host->ranks; rank++) {
        size_t nbytes;
        const size_t at = segment(host, rank, k, &nbytes);
        if (nbytes && (rank == host->rank) != sums(host)) /* to be summed: others' chunks; to be gathered: my own */
            write_slot(host, mine + offset_in_slot(host, rank), host->buffer + at, nbytes);
    }
}

static void sum_segment(npdp_host *host, uint32_t k)
{
    size_t nbytes;
    const size_t at = segment(host, host->rank, k, &nbytes), mine = offset_in_slot(host, host->rank);
    for (uint32_t rank = 0; rank < host->ranks; rank++)
        sources(host)[rank] = rank == host->rank ? host->buffer + at : slot(host, rank, k) + mine;
    host->pointers[0] = host->buffer + at;
    host->pointers[1] = slot(host, host->rank, k) + mine;
    if (host->kind != NPDP_ALLREDUCE)
        combine(host, 1, nbytes);
    else
        sum_one_way(host, nbytes);
}

static void take(npdp_host *host, uint32_t k)
{
    for (uint32_t rank = 0; rank < host->ranks; rank++) {
        size_t nbytes;
        const size_t at = segment(host, rank, k, &nbytes);
        if (nbytes && rank != host->rank)
            copy(host, host->buffer + at, slot(host, rank, k) + offset_in_slot(host, rank), nbytes);
    }
}

/* Segment k is put in in phase k, summed in the next, taken in the one after (or the next, where nothing is summed). */
static void work_staged(npdp_host *host, uint32_t phase)
{
    const uint32_t later = sums(host) ? 2 : 1;
    if (gathers(host) && phase >= later)
        take(host, phase - later);
    if (sums(host) && phase >= 1 && phase <= host->segments)
        sum_segment(host, phase - 1);
    if (phase < host->segments)
        put_in(host, phase);
}

static void work_direct(npdp_host *host, uint32_t k)
{
    size_t nbytes;
    if (sums(host)) {
        const size_t at = segment(host, host->rank, k, &nbytes);
        for (uint32_t rank = 0; rank < host->ranks; rank++) {
            unsigned char *array = npdp_array_of(host, rank);
            host->pointers[rank] = sources(host)[rank] = array + at;
        }
        if (host->kind == NPDP_REDUCE_SCATTER)
            host->pointers[0] = host->buffer + at;
        combine(host, host->kind == NPDP_ALLREDUCE ? host->ranks : 1, nbytes);
        return;
    }
    for (uint32_t rank = 0; rank < host->ranks; rank++) {
        const size_t at = segment(host, rank, k, &nbytes);
        if (nbytes && rank != host->rank)
            copy(host, host->buffer + at, (unsigned char *)npdp_array_of(host, rank) + at, nbytes);
    }
}

static void sum_small(npdp_host *host)
{
    for (uint32_t rank = 0; rank < host->ranks; rank++)
        sources(host)[rank] = small_slot(host, rank);
    host->pointers[0] = host->buffer;
    combine(host, 1, host->count * size_of(host));
}

static void work(npdp_host *host)
{
    const uint32_t phase = host->phase;
    if (host->kind == NPDP_BARRIER)
        return;
    if (host->mode == SMALL) {
        if (phase == 0)
            memcpy(small_slot(host, host->rank), host->buffer, host->count * size_of(host));
        else
            sum_small(host);
    } else if (host->mode == DIRECT) {
        if (phase >= 1 && phase <= host->segments)
            work_direct(host, phase - 1);
    } else {
        work_staged(host, phase);
    }
}

/* ---- a collective ---- */

/* The elements of the first chunk, or the root's; 1 where there is nothing to send, for ranks meet as well. */
static size_t longest_chunk(const npdp_host *host)
{
    size_t longest;
    chunk(host, host->kind == NPDP_BROADCAST ? host->root : 0, &longest);
    return longest ? longest : 1;
}

static void be_staged(npdp_host *host)
{
    const size_t longest = longest_chunk(host);
    const size_t lines_bytes = cover(longest * size_of(host), CACHE_LINE_BYTES) * CACHE_LINE_BYTES;
    host->mode = STAGED;
    host->piece = smaller(host->longest_slot / chunk_count(host), lines_bytes) / size_of(host);
    host->segments = (uint32_t)cover(longest, host->piece);
    host->last_phase = host->segments + (sums(host) && gathers(host));
}

/* Whether there is so much that arrays in this memory are worked on where they are: less is quicker copied. All ranks
 * say the same. */
static int direct_pays(const npdp_host *host)
{
    return host->kind != NPDP_BARRIER && host->count * size_of(host) > SMALL_DIRECT_BYTES;
}

static void be_direct(npdp_host *host)
{
    const size_t nbytes = sums(host) ? DIRECT_BYTES : DIRECT_COPY_BYTES;
    host->mode = DIRECT;
    host->piece = cover(nbytes, chunk_count(host) * CACHE_LINE_BYTES) * CACHE_LINE_BYTES / size_of(host);
    host->segments = (uint32_t)cover(longest_chunk(host), host->piece);
    host->last_phase = host->segments + 1;
}

static void be_small_or_staged(npdp_host *host)
{
    if (host->kind == NPDP_BARRIER || (host->kind == NPDP_ALLREDUCE && host->count * size_of(host) <= SMALL_BYTES)) {
        host->mode = SMALL;
        host->last_phase = 1;
    } else {
        be_staged(host);
    }
}

/* When all have announced what they call: returns whether that is the same, and how many arrays lie outside. */
static int all_alike(npdp_host *host, uint32_t *outside)
{
    const uint32_t now = turn(host);
    const line *mine = line_of(host, host->rank);
    *outside = 0;
    for (uint32_t rank = 0; rank < host->ranks; rank++) {
        const line *theirs = line_of(host, rank);
        if (theirs->calls[now].what != mine->calls[now].what || theirs->calls[now].count != mine->calls[now].count) {
            host->different = rank;
            return 0;
        }
        *outside += theirs->calls[now].where == 0;
    }
    return 1;
}

static int go_on(npdp_host *host)
{
    while (all_have_posted(host)) {
        if (!host->agreed) {
            uint32_t outside;
            if (!all_alike(host, &outside))
                return NPDP_DIFFERENT;
            host->agreed = 1;
            /* Some lie here, some do not: all go through slots. Whose lies outside has put in; now the others do */
            if (direct_pays(host) && outside > 0 && outside < host->ranks) {
                if (host->mode == DIRECT) {
                    be_small_or_staged(host);
                    work(host);
                }
                post(host);
                continue;
            }
        }
        host->phase++;
        work(host);
        if (host->phase == host->last_phase) {
            if (host->mode == STAGED)
                host->ring_at = slot_start(host, host->segments - 1) + slot_bytes(host);
            host->collective_s += now_s() - host->begun_s;
            __atomic_store_n(&host->under_way, 0, __ATOMIC_RELEASE); /* the last phase's work is part of it */
            return NPDP_DONE;
        }
        if (host->mode != DIRECT || host->phase == host->segments)
            post(host);
        if ((host->phase % PHASES_A_LOOK == 0 || copies_directly(host)) && now_s() >= host->until_s)
            break;
    }
    return NPDP_WAITING;
}

int npdp_start(npdp_host *host, int kind, int op, int dtype, void *buffer, size_t count, uint32_t root)
{
    const uintptr_t base = (uintptr_t)host->base, at = (uintptr_t)buffer;
    const size_t first = npdp_header_bytes(host->ranks, host->longest_slot);
    const int inside = at >= base + first && at < base + host->nbytes;
    line *mine = line_of(host, host->rank);

    if (__atomic_exchange_n(&host->under_way, 1, __ATOMIC_ACQUIRE))
        return NPDP_UNFINISHED; /* the others still wait for what this rank posts in it */
    host->begun_s = now_s();
    host->until_s = host->begun_s + host->longest_s;
    host->begun++;
    const uint32_t now = turn(host);
    mine->calls[now].what = (uint64_t)kind | (uint64_t)op << 8 | (uint64_t)dtype << 16 | (uint64_t)root << 32;
    mine->calls[now].count = count;
    mine->calls[now].where = inside ? at - base : 0;

    op &= ~NPDP_FORTRAN;
    host->kind = kind, host->op = op == NPDP_MEAN ? NPDP_SUM : op, host->dtype = dtype, host->root = root;
    host->buffer = buffer, host->count = count;
    host->phase = 0, host->agreed = 0, host->patient = 0;
    if (inside && direct_pays(host))
        be_direct(host);
    else
        be_small_or_staged(host);
    work(host);
    post(host);
    return go_on(host);
}

int npdp_test(npdp_host *host)
{
    host->until_s = now_s() + host->longest_s;
    return go_on(host);
}

int npdp_is_ahead(const npdp_host *host, uint32_t rank)
{
    return (int32_t)(__atomic_load_n(&line_of(host, rank)->posted, __ATOMIC_ACQUIRE) - host->posted) > 0;
}

int npdp_is_behind(const npdp_host *host, uint32_t rank)
{
    return !has_posted(host, line_of(host, rank));
}

void npdp_say(npdp_host *host, uint32_t number)
{
    __atomic_store_n(&line_of(host, host->rank)->said, (uint64_t)host->posted << 32 | number, __ATOMIC_RELEASE);
}

int64_t npdp_said(const npdp_host *host, uint32_t rank)
{
    const line *theirs = line_of(host, rank);
    const uint64_t said = __atomic_load_n(&theirs->said, __ATOMIC_ACQUIRE);
    return (uint32_t)(said >> 32) == __atomic_load_n(&theirs->posted, __ATOMIC_ACQUIRE) ? (int64_t)(uint32_t)said : -1;
}

void *npdp_array_of(const npdp_host *host, uint32_t rank)
{
    const uint64_t where = line_of(host, rank)->calls[turn(host)].where;
    return where ? host->base + where : NULL;
}

uint64_t npdp_call_of(const npdp_host *host, uint32_t rank, uint64_t *count)
{
    const line *theirs = line_of(host, rank);
    *count = theirs->calls[turn(host)].count;
    return theirs->calls[turn(host)].what;
}
