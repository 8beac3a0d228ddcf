/* Collectives over memory that all ranks of a host map: the contract. cffi reads these lines too.
 *
 * A rank describes itself in an npdp_host, calls npdp_start, and then npdp_test until it says NPDP_DONE. All ranks
 * begin the same collectives in the same order. Both return after longest_s, so that their caller can look after signals
 * and dead ranks: they wait no longer than that, and then finish the few segments that they work on, 1 or 2 MB of each
 * rank's. npdp_test may be called again at any time.
 *
 * The mapping starts with npdp_header_bytes(ranks, longest_slot), zero at first, which belong to these functions.
 *
 * Sums are in rank order, whatever the timing: the same bits as the naive algorithm over messages.
 * Cost, of S bytes on P ranks: direct, a rank reads S and writes S; staged, it also copies (P-1)/P S in and out.
 */
#ifndef NPDP_SHARED_MEMORY_H
#define NPDP_SHARED_MEMORY_H

#include <stddef.h>
#include <stdint.h>

enum { NPDP_ALLREDUCE, NPDP_REDUCE_SCATTER, NPDP_ALLGATHER, NPDP_BROADCAST, NPDP_BARRIER };
enum { NPDP_MEAN = 4 }; /* besides npdp_kernels.h's ops: the sum, which each rank divides */
enum { NPDP_FORTRAN = 8 }; /* with an op: so the array lies. Only compared, for elements meet as they lie */
enum { NPDP_DONE, NPDP_WAITING, NPDP_DIFFERENT, NPDP_UNFINISHED };

/* Two ways to do the same: seconds a byte of late, 0 before the first time; and how often until the other is tried. */
typedef struct {
    double byte_s[2];
    uint32_t turns;
} npdp_ways;

typedef struct {
    /* Set once by the caller. */
    unsigned char *base;   /* where the memory is mapped, on a page */
    size_t nbytes;         /* of the mapping */
    size_t longest_slot;   /* bytes of a staging slot at most; a multiple of 64 * ranks */
    uint32_t rank, ranks;
    uint32_t spins, yields; /* how often to look at once, then with a yield before each look, before sleeping */
    double longest_s;      /* after which a call returns */
    int fast_strings;      /* npdp_has_fast_strings() */
    void **pointers;       /* scratch: 2 * ranks + 1 of them */
    /* How far this rank is; zero at first. */
    uint32_t posted, begun;
    size_t ring_at;        /* where in a rank's ring of staging slots the next one is */
    double wait_s;         /* seconds in which it waited for others */
    double collective_s;   /* seconds from the begin of a collective until it was done */
    npdp_ways writes, sums; /* to a slot; of a segment's sum to buffer and slot */
    /* The collective under way. */
    double begun_s, until_s; /* by now_s(): when; and when the call that is under way is to return */
    int kind, op, dtype, mode, agreed, patient;
    int under_way; /* from npdp_start to NPDP_DONE; another thread of this rank may look */
    uint32_t root, phase, last_phase, segments;
    uint32_t different;    /* after NPDP_DIFFERENT: the first rank that called something else */
    unsigned char *buffer;
    size_t count, piece;   /* elements; how many of a chunk are in a segment */
} npdp_host;

/* How many bytes at the start of the mapping these functions need. */
size_t npdp_header_bytes(uint32_t ranks, size_t longest_slot);

/* Begins a collective and goes on. The chunks of `count` elements follow the partition law; nobody sees an all-reduce's.
 * root: of a broadcast; with others it is only compared.
 * NPDP_UNFINISHED: it did nothing, for the last one was not gone on with until it was done, or is under way in another
 * thread. */
int npdp_start(npdp_host *host, int kind, int op, int dtype, void *buffer, size_t count, uint32_t root);

/* Goes on: NPDP_DONE; NPDP_WAITING, call again; or NPDP_DIFFERENT: another rank is in another collective, and this
 * world is of no use any more. */
int npdp_test(npdp_host *host);

/* Whether `rank` has posted more often than this one: it is in a collective that this rank has not begun. */
int npdp_is_ahead(const npdp_host *host, uint32_t rank);

/* Whether `rank` has posted less often than this one, which may be why this one waits. */
int npdp_is_behind(const npdp_host *host, uint32_t rank);

/* Tells the others a number, in the collective that this rank waits in. */
void npdp_say(npdp_host *host, uint32_t number);

/* What `rank` has said in the collective that it waits in, -1 where nothing. */
int64_t npdp_said(const npdp_host *host, uint32_t rank);

/* Where, in this mapping, the array lies with which `rank` began the collective under way; NULL if outside. */
void *npdp_array_of(const npdp_host *host, uint32_t rank);

/* What `rank` called: kind | op << 8 | dtype << 16 | root << 32, and its count. For words about NPDP_DIFFERENT. */
uint64_t npdp_call_of(const npdp_host *host, uint32_t rank, uint64_t *count);

#endif
