/* Where things are, for shared_memory.c: a rank's line and slots in the memory, its chunk and segments in a buffer.
 *
 *     base   | line 0 | line 1 | ... | small slots | staging slots | arrays ...
 *
 * A slot is written again when all ranks have posted so often since that they are done with what was in it: staging
 * slots take turns by three, small slots by two, and so do the calls in a line.
 */
#ifndef NPDP_LAYOUT_H
#define NPDP_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "internal.h"
#include "npdp_kernels.h"
#include "npdp_shared_memory.h"

enum { LINE_BYTES = 128, SMALL_BYTES = 8192, SMALL_TURNS = 2, STAGED_TURNS = 3 };

/* ---- in the memory ---- */

/* What a rank tells the others. */
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
static size_t place(const npdp_host *host, uint32_t rank)
{
    return host->kind == NPDP_BROADCAST ? 0 : rank * host->piece * size_of(host);
}

#endif
