/* Collectives over memory that all ranks of a host map; the contract is in npdp_shared_memory.h.
 *
 *     base   | line 0 | line 1 | ... | small slots | staging slots | arrays ...
 *
 * A rank's line tells the others how often it has posted, and what it has called. A collective is a row of phases: a
 * rank does the work of a phase, posts, and begins the next one when all have posted as often. What one wrote before
 * it posted, the others see after they have seen the post. Nothing else orders the ranks.
 *
 *     direct    all arrays lie in this memory:  announce | sum my chunk over all arrays, into all of them
 *     staged    they do not; by segments:       take what is done of k - 2, sum my chunk of k - 1, put in k | ...
 *     small     put in | everybody sums everything: one post, not two
 *
 * A slot is written again when all ranks have posted so often since that they are done with what was in it: staging
 * slots take turns by three, small slots by two, and so do the calls in a line.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <string.h>

#include "internal.h"
#include "npdp_kernels.h"
#include "npdp_shared_memory.h"
#include "waiting.h"

enum { DIRECT, STAGED, SMALL };
enum { CACHE_LINE_BYTES = 64, LINE_BYTES = 128, SMALL_BYTES = 8192, SMALL_TURNS = 2, SMALL_DIRECT_BYTES = 1024 };
enum { STAGED_TURNS = 3, STRING_BYTES = 4096 };
enum { SUM_TO_BOTH, SUM_AND_COPY, EVERY = 32 };

typedef struct {
    uint32_t posted, sleepers;
    struct {
        uint64_t what, count, where; /* where: offset of the array in this memory; 0 where it lies outside */
    } calls[2];
} line;

static line *line_of(const npdp_host *host, uint32_t rank)
{
    return (line *)(void *)(host->base + (size_t)rank * LINE_BYTES);
}

static unsigned char *small_slot(const npdp_host *host, uint32_t rank, uint32_t turn)
{
    const size_t number = (size_t)rank * SMALL_TURNS + turn % SMALL_TURNS;
    return host->base + (size_t)host->ranks * LINE_BYTES + number * SMALL_BYTES;
}

static unsigned char *slot(const npdp_host *host, uint32_t rank, uint64_t turn)
{
    const size_t number = (size_t)rank * STAGED_TURNS + (size_t)(turn % STAGED_TURNS);
    return small_slot(host, host->ranks, 0) + number * host->slot_bytes;
}

size_t npdp_header_bytes(uint32_t ranks, size_t slot_bytes)
{
    return (size_t)ranks * (LINE_BYTES + SMALL_TURNS * SMALL_BYTES + STAGED_TURNS * slot_bytes);
}

/* ---- posting and waiting ---- */

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
        sleep_while(&theirs->posted, &theirs->sleepers, seen);
}

/* Waits for one rank: looks, yields, sleeps once; returns whether it has posted. */
static int wait_for(npdp_host *host, line *theirs)
{
    for (uint32_t i = 0; i < host->looks && !host->patient; i++) {
        if (has_posted(host, theirs))
            return 1;
        look_again_soon();
    }
    for (uint32_t i = 0; i < host->yields && !host->patient; i++) {
        sched_yield();
        if (has_posted(host, theirs))
            return 1;
    }
    sleep_until_posted(host, theirs);
    return has_posted(host, theirs);
}

static int all_have_posted(npdp_host *host)
{
    double begun = 0;
    int all = 1;
    for (uint32_t rank = 0; all && rank < host->ranks; rank++) {
        line *theirs = line_of(host, rank);
        if (has_posted(host, theirs))
            continue;
        begun = begun > 0 ? begun : now_s();
        all = wait_for(host, theirs) && now_s() - begun < 1e-9 * LONGEST_SLEEP_NS; /* many may come one by one */
    }
    if (begun > 0)
        host->wait_s += now_s() - begun;
    host->patient = !all;
    return all;
}

/* ---- chunks and segments ---- */

static size_t size_of(const npdp_host *host)
{
    return host->dtype == NPDP_F32 || host->dtype == NPDP_I32 ? 4 : 8;
}

/* The partition law; of a broadcast all belongs to the root, and of an all-reduce, which leaves everything everywhere,
 * each rank has whole cache lines, where the buffer begins with one: two that write to one line send it to and fro.
 * Returns where the chunk starts. */
static size_t chunk(const npdp_host *host, uint32_t rank, size_t *length)
{
    if (host->kind == NPDP_BROADCAST) {
        *length = rank == host->root ? host->count : 0;
        return 0;
    }
    if (host->kind == NPDP_ALLREDUCE) {
        const size_t line_count = CACHE_LINE_BYTES / size_of(host), lines = (host->count + line_count - 1) / line_count;
        const size_t longest = (lines + host->ranks - 1) / host->ranks * line_count, start = rank * longest;
        const size_t left = start < host->count ? host->count - start : 0;
        *length = left < longest ? left : longest;
        return left ? start : host->count;
    }
    const size_t size = host->count / host->ranks, longer = host->count % host->ranks;
    *length = size + (rank < longer);
    return rank * size + (rank < longer ? rank : longer);
}

/* Where segment k of a rank's chunk is in the buffer, in bytes; its bytes in *nbytes, 0 where there is none. */
static size_t segment(const npdp_host *host, uint32_t rank, size_t k, size_t *nbytes)
{
    size_t length;
    const size_t start = chunk(host, rank, &length), done = k * host->piece;
    const size_t left = length > done ? length - done : 0;
    *nbytes = (left < host->piece ? left : host->piece) * size_of(host);
    return (start + done) * size_of(host);
}

/* Where the part of a rank's chunk lies in a slot. */
static size_t place(const npdp_host *host, uint32_t rank)
{
    return host->kind == NPDP_BROADCAST ? 0 : rank * host->piece * size_of(host);
}

static int sums(const npdp_host *host)
{
    return host->kind == NPDP_ALLREDUCE || host->kind == NPDP_REDUCE_SCATTER;
}

static int gathers(const npdp_host *host)
{
    return host->kind != NPDP_REDUCE_SCATTER && host->kind != NPDP_BARRIER;
}

/* ---- the work of a phase ---- */

static void **sources(const npdp_host *host)
{
    return host->pointers + host->ranks + 1; /* a rank alone has two targets as well */
}

static void combine(npdp_host *host, size_t target_count, size_t nbytes)
{
    npdp_combine(host->op, host->dtype, host->pointers, target_count, (const void *const *)sources(host), host->ranks,
                 nbytes / size_of(host));
}

/* Copies what another core reads next, or wrote last. The string instruction does not fetch the lines that it writes over;
 * the C library takes it on Intel's processors, not on AMD's. */
static void copy(const npdp_host *host, void *to, const void *from, size_t nbytes)
{
#ifdef NPDP_WITH_X86
    if (host->fast_strings && nbytes >= STRING_BYTES) {
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(nbytes) : : "memory");
        return;
    }
#endif
    memcpy(to, from, nbytes);
}

static void put_in(npdp_host *host, uint32_t k)
{
    unsigned char *mine = slot(host, host->rank, host->staged + k);
    for (uint32_t rank = 0; rank < host->ranks; rank++) {
        size_t nbytes;
        const size_t at = segment(host, rank, k, &nbytes);
        if (nbytes && (rank == host->rank) != sums(host)) /* to be summed: others' chunks; to be gathered: my own */
            copy(host, mine + place(host, rank), host->buffer + at, nbytes);
    }
}

/* What a byte takes of late: at once what is less, and little by little what is more, for a rank may be put aside. */
static double of_late(double before, double byte_s)
{
    if (before <= 0 || byte_s < before)
        return byte_s;
    return (3 * before + (byte_s < 2 * before ? byte_s : 2 * before)) / 4;
}

/* To this rank's buffer and slot at once, or to the buffer and from there to the slot by a string instruction. Writing to lines
 * that another core has read takes long where the two have no cache in common, and systems move ranks from core to core:
 * so both ways are timed. The second is taken where it is clearly the quicker, but now and then the other. The result is
 * the same. */
static void sum_one_way(npdp_host *host, size_t nbytes)
{
    const int quicker = host->byte_s[SUM_AND_COPY] < 0.7 * host->byte_s[SUM_TO_BOTH];
    const int way = ++host->timed % EVERY == 0 ? !quicker : quicker;
    const double begun = now_s();
    combine(host, way == SUM_TO_BOTH ? 2 : 1, nbytes);
    if (way == SUM_AND_COPY)
        copy(host, host->pointers[1], host->pointers[0], nbytes);
    host->byte_s[way] = of_late(host->byte_s[way], (now_s() - begun) / (double)nbytes);
}

static void sum_segment(npdp_host *host, uint32_t k)
{
    size_t nbytes;
    const size_t at = segment(host, host->rank, k, &nbytes), mine = place(host, host->rank);
    for (uint32_t rank = 0; rank < host->ranks; rank++)
        sources(host)[rank] =
            rank == host->rank ? host->buffer + at : slot(host, rank, host->staged + k) + mine;
    host->pointers[0] = host->buffer + at;
    host->pointers[1] = slot(host, host->rank, host->staged + k) + mine;
    if (host->kind != NPDP_ALLREDUCE)
        combine(host, 1, nbytes);
    else if (nbytes < STRING_BYTES || !host->fast_strings)
        combine(host, 2, nbytes);
    else
        sum_one_way(host, nbytes);
}

static void take(npdp_host *host, uint32_t k)
{
    for (uint32_t rank = 0; rank < host->ranks; rank++) {
        size_t nbytes;
        const size_t at = segment(host, rank, k, &nbytes);
        if (nbytes && rank != host->rank)
            copy(host, host->buffer + at, slot(host, rank, host->staged + k) + place(host, rank), nbytes);
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

static void work_direct(npdp_host *host)
{
    size_t nbytes;
    if (sums(host)) {
        const size_t at = segment(host, host->rank, 0, &nbytes);
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
        const size_t at = segment(host, rank, 0, &nbytes);
        if (nbytes && rank != host->rank)
            copy(host, host->buffer + at, (unsigned char *)npdp_array_of(host, rank) + at, nbytes);
    }
}

static void sum_small(npdp_host *host)
{
    for (uint32_t rank = 0; rank < host->ranks; rank++)
        sources(host)[rank] = small_slot(host, rank, host->small);
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
            memcpy(small_slot(host, host->rank, host->small), host->buffer, host->count * size_of(host));
        else
            sum_small(host);
    } else if (host->mode == DIRECT) {
        if (phase == 1)
            work_direct(host);
    } else {
        work_staged(host, phase);
    }
}

/* ---- a collective ---- */

static void be_staged(npdp_host *host)
{
    const uint32_t places = host->kind == NPDP_BROADCAST ? 1 : host->ranks;
    size_t longest; /* the first chunk, or the root's */
    chunk(host, host->kind == NPDP_BROADCAST ? host->root : 0, &longest);
    host->mode = STAGED;
    host->piece = host->slot_bytes / places / size_of(host);
    host->segments = longest ? (uint32_t)((longest + host->piece - 1) / host->piece) : 1;
    host->last_phase = host->segments + (sums(host) && gathers(host));
}

/* Whether arrays in this memory are worked on where they are: less is quicker copied. All ranks say the same. */
static int direct_pays(const npdp_host *host)
{
    return host->kind != NPDP_BARRIER && host->count * size_of(host) > SMALL_DIRECT_BYTES;
}

static void be_direct(npdp_host *host)
{
    host->mode = DIRECT;
    host->piece = host->count;
    host->last_phase = 2;
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

int npdp_begin(npdp_host *host, int kind, int op, int dtype, void *buffer, size_t count, uint32_t root)
{
    const uintptr_t base = (uintptr_t)host->base, at = (uintptr_t)buffer;
    const size_t first = npdp_header_bytes(host->ranks, host->slot_bytes);
    const int inside = at >= base + first && at < base + host->nbytes;
    const uint32_t turn = host->begun++ % 2;
    line *mine = line_of(host, host->rank);

    mine->calls[turn].what = (uint64_t)kind | (uint64_t)op << 8 | (uint64_t)dtype << 16 | (uint64_t)root << 32;
    mine->calls[turn].count = count;
    mine->calls[turn].where = inside ? at - base : 0;

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
    return npdp_go_on(host);
}

/* When all have announced what they call: returns whether that is the same, and how many arrays lie outside. */
static int all_alike(npdp_host *host, uint32_t *outside)
{
    const uint32_t turn = (host->begun - 1) % 2;
    const line *mine = line_of(host, host->rank);
    *outside = 0;
    for (uint32_t rank = 0; rank < host->ranks; rank++) {
        const line *theirs = line_of(host, rank);
        if (theirs->calls[turn].what != mine->calls[turn].what || theirs->calls[turn].count != mine->calls[turn].count) {
            host->different = rank;
            return 0;
        }
        *outside += theirs->calls[turn].where == 0;
    }
    return 1;
}

int npdp_go_on(npdp_host *host)
{
    while (all_have_posted(host)) {
        if (!host->agreed) {
            uint32_t outside;
            if (!all_alike(host, &outside))
                return NPDP_DIFFERENT;
            host->agreed = 1;
            if (direct_pays(host) && outside > 0 && outside < host->ranks) { /* some have put in; now the others do */
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
            host->small += host->mode == SMALL;
            host->staged += host->mode == STAGED ? host->segments : 0;
            return NPDP_DONE;
        }
        post(host);
    }
    return NPDP_WAITING;
}

int npdp_is_ahead(const npdp_host *host, uint32_t rank)
{
    return (int32_t)(__atomic_load_n(&line_of(host, rank)->posted, __ATOMIC_ACQUIRE) - host->posted) > 0;
}

void *npdp_array_of(const npdp_host *host, uint32_t rank)
{
    const uint64_t where = line_of(host, rank)->calls[(host->begun - 1) % 2].where;
    return where ? host->base + where : NULL;
}

uint64_t npdp_call_of(const npdp_host *host, uint32_t rank, uint64_t *count)
{
    const line *theirs = line_of(host, rank);
    *count = theirs->calls[(host->begun - 1) % 2].count;
    return theirs->calls[(host->begun - 1) % 2].what;
}
