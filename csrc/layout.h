/* Where things are, for shared_memory.c: a rank's line and slots in the memory, its chunk and segments in a buffer.
 *
 *     base   | line 0 | line 1 | ... | small slots | staging slots | arrays ...
 *
 * A slot is written again when all ranks have posted so often since that they are done with what was in it. Small
 * slots, and the calls in a line, take turns by two, a turn for each collective. Staging slots follow each other round
 * a rank's ring, each as long as its segment needs, so that it is long ago that a line was written, or read by another
 * rank, when it is written again. In a ring of four of the longest the two segments before one, which ranks may still
 * read, never lie where it does.
 */
#ifndef NPDP_LAYOUT_H
#define NPDP_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "internal.h"
#include "npdp_kernels.h"
#include "npdp_shared_memory.h"

enum { LINE_BYTES = 128, SMALL_BYTES = 8192, TURNS = 2, LONGEST_IN_RING = 4 };

/* ---- in the memory ---- */

/* What a rank tells the others. */
typedef struct {
    uint32_t posted, sleepers;
    uint64_t said; /* npdp_say: how often it had posted, times 2^32, and what it said */
    struct {
        uint64_t what, count, where; /* where: offset of the array in this memory; 0 where it lies outside */
    } calls[TURNS];
    uint32_t not_finite; /* in the last of its collectives, by number, in which it has seen a sum that was not finite */
} line;

/* Of the collective under way. */
static uint32_t turn(const npdp_host *host)
{
    return (host->begun - 1) % TURNS;
}

static line *line_of(const npdp_host *host, uint32_t rank)
{
    return (line *)(void *)(host->base + (size_t)rank * LINE_BYTES);
}

static unsigned char *small_slot(const npdp_host *host, uint32_t rank)
{
    const size_t number = (size_t)rank * TURNS + turn(host);
    return host->base + (size_t)host->ranks * LINE_BYTES + number * SMALL_BYTES;
}

static size_t ring_bytes(const npdp_host *host)
{
    return LONGEST_IN_RING * host->longest_slot;
}

/* How many ranks have a chunk. */
static uint32_t chunk_count(const npdp_host *host)
{
    return host->kind == NPDP_BROADCAST ? 1 : host->ranks;
}

static size_t slot_bytes(const npdp_host *host)
{
    return chunk_count(host) * host->piece * item_bytes(host->dtype);
}

/* Where in the ring segment k of the collective under way has its slot: behind the one before, at the start where it would
 * reach over the end. */
static size_t slot_start(const npdp_host *host, size_t k)
{
    const size_t nbytes = slot_bytes(host), before_end = (ring_bytes(host) - host->ring_at) / nbytes;
    if (k < before_end)
        return host->ring_at + k * nbytes;
    return (k - before_end) % (ring_bytes(host) / nbytes) * nbytes;
}

static unsigned char *slot(const npdp_host *host, uint32_t rank, size_t k)
{
    const size_t before = (size_t)host->ranks * (LINE_BYTES + TURNS * SMALL_BYTES);
    return host->base + before + rank * ring_bytes(host) + slot_start(host, k);
}

/* ---- in a buffer ---- */

static size_t size_of(const npdp_host *host)
{
    return item_bytes(host->dtype);
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
        const size_t line_count = CACHE_LINE_BYTES / size_of(host), lines = cover(host->count, line_count);
        const size_t longest = cover(lines, host->ranks) * line_count, start = rank * longest;
        const size_t left = start < host->count ? host->count - start : 0;
        *length = smaller(left, longest);
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
    *nbytes = smaller(left, host->piece) * size_of(host);
    return (start + done) * size_of(host);
}

/* Where a segment of a rank's chunk lies in a slot, in bytes. */
static size_t offset_in_slot(const npdp_host *host, uint32_t rank)
{
    return host->kind == NPDP_BROADCAST ? 0 : rank * host->piece * size_of(host);
}

#endif
