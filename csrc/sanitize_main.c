/* Calls each kernel over many lengths and alignments, for the address and undefined-behaviour sanitizers to watch; and
 * the collectives over shared memory and the mailboxes, by threads that are the ranks, which the thread sanitizer may
 * watch as well.
 *
 * Arrays come from malloc with their exact length, so that one element too many is seen, also where an offset shifts
 * the alignment. Values run through the awkward: extremes of integers, NaN, infinities, denormals. What comes out is
 * tested elsewhere, against NumPy; here is only looked at what C may not do. `make sanitize` builds and runs it.
 */
#define _GNU_SOURCE
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gemm/npdp_gemm.h"
#include "npdp_kernels.h"
#include "npdp_mailbox.h"
#include "npdp_shared_memory.h"

enum { LONGEST = 100, LARGE = 4099, OFFSETS = 17 };

unsigned long npdp_call_layers(size_t count, size_t offset); /* sanitize_layers.c */

static unsigned long calls = 0, wrong = 0;

static void expect(int wanted, int got, const char *name, size_t count)
{
    calls++;
    if (wanted != got) {
        wrong++;
        fprintf(stderr, "%s, count %zu: status %d, wanted %d\n", name, count, got, wanted);
    }
}

static void *allocate(size_t nbytes)
{
    void *memory = malloc(nbytes > 0 ? nbytes : 1);
    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* Awkward values in turn; the start differs from array to array so that they meet each other. */
#define DEFINE_FILL(name, type, ...)                                                                                   \
    static type *name(size_t offset, size_t count, size_t start)                                                       \
    {                                                                                                                  \
        static const type values[] = {__VA_ARGS__};                                                                    \
        type *array = allocate((offset + count) * sizeof(type));                                                       \
        for (size_t i = 0; i < offset + count; i++)                                                                    \
            array[i] = values[(i * 7 + start) % (sizeof values / sizeof values[0])];                                   \
        return array;                                                                                                  \
    }

DEFINE_FILL(fill_f32, float, 0.0f, -0.0f, 1.5f, -3.25f, FLT_MAX, -FLT_MAX, FLT_MIN / 8, NAN, INFINITY, -INFINITY)
DEFINE_FILL(fill_f64, double, 0.0, -0.0, 1.5, -3.25, DBL_MAX, -DBL_MAX, DBL_MIN / 8, (double)NAN, (double)INFINITY)
DEFINE_FILL(fill_i32, int32_t, 0, 1, -1, INT32_MAX, INT32_MIN, 46341, -65536)
DEFINE_FILL(fill_i64, int64_t, 0, 1, -1, INT64_MAX, INT64_MIN, 3037000500, -4294967296)

#define CALL_ACCUMULATE(op, suffix, type)                                                                              \
    do {                                                                                                               \
        type *dst = fill_##suffix(offset, count, 0), *src = fill_##suffix(other, count, 3);                            \
        expect(0, npdp_##op##_##suffix(dst + offset, src + other, count), #op "_" #suffix, count);                     \
        expect(0, npdp_##op##_##suffix(dst + offset, dst + offset, count), #op "_" #suffix " on itself", count);       \
        if (offset > 0)                                                                                                \
            expect(count > offset, npdp_##op##_##suffix(dst, dst + offset, count), #op "_" #suffix " shifted", count); \
        free(dst);                                                                                                     \
        free(src);                                                                                                     \
    } while (0)

#define CALL_SGD(suffix, real, flags)                                                                                  \
    do {                                                                                                               \
        const real momentum = (flags)&1 ? (real)0.9 : 0, decay = (flags)&2 ? (real)0.01 : 0;                           \
        const int nesterov = (flags)&4 ? 1 : 0, first = (flags)&8 ? 1 : 0;                                             \
        real *param = fill_##suffix(offset, count, 0), *grad = fill_##suffix(other, count, 1);                         \
        real *velocity = momentum != 0 ? fill_##suffix(offset, count, 2) : NULL;                                       \
        real *v = velocity != NULL ? velocity + offset : NULL;                                                         \
        expect(0, npdp_sgd_##suffix(param + offset, grad + other, v, count, (real)0.1, momentum, 1, decay, nesterov,   \
                                    first),                                                                            \
               "sgd_" #suffix, count);                                                                                 \
        expect(count > 0, npdp_sgd_##suffix(param, param, v, count, (real)0.1, momentum, 1, decay, nesterov, first),   \
               "sgd_" #suffix " on itself", count);                                                                    \
        free(param);                                                                                                   \
        free(grad);                                                                                                    \
        free(velocity);                                                                                                \
    } while (0)

#define CALL_ADAM(suffix, real, l2, shrink)                                                                            \
    do {                                                                                                               \
        real *param = fill_##suffix(offset, count, 0), *grad = fill_##suffix(other, count, 1);                         \
        real *m = fill_##suffix(offset, count, 2), *v = fill_##suffix(other, count, 3);                                \
        expect(0, npdp_adam_##suffix(param + offset, grad + other, m + offset, v + other, count, (real)0.1,            \
                                     (real)0.9, (real)0.1, (real)0.99, (real)0.01, (real)0.1, (real)1e-8, l2, shrink), \
               "adam_" #suffix, count);                                                                                \
        expect(count > 0, npdp_adam_##suffix(param, grad, m, m, count, (real)0.1, (real)0.9, (real)0.1, (real)0.99,    \
                                             (real)0.01, (real)0.1, (real)1e-8, l2, shrink),                           \
               "adam_" #suffix " on itself", count);                                                                   \
        free(param);                                                                                                   \
        free(grad);                                                                                                    \
        free(m);                                                                                                       \
        free(v);                                                                                                       \
    } while (0)

#define CALL_ALL_TYPES(op)                                                                                             \
    do {                                                                                                               \
        CALL_ACCUMULATE(op, f32, float);                                                                               \
        CALL_ACCUMULATE(op, f64, double);                                                                              \
        CALL_ACCUMULATE(op, i32, int32_t);                                                                             \
        CALL_ACCUMULATE(op, i64, int64_t);                                                                             \
    } while (0)

static void call_accumulate(size_t count, size_t offset, size_t other)
{
    CALL_ALL_TYPES(sum);
    CALL_ALL_TYPES(prod);
    CALL_ALL_TYPES(min);
    CALL_ALL_TYPES(max);
}

#define CALL_RELU_GRADIENT(suffix, real)                                                                               \
    do {                                                                                                               \
        real *g = fill_##suffix(offset, count, 1), *y = fill_##suffix(other, count, 2);                                \
        real *gradient = fill_##suffix(other, count, 0);                                                               \
        npdp_relu_gradient_##suffix(gradient + other, g + offset, y + other, count);                                   \
        calls++;                                                                                                       \
        free(g), free(y), free(gradient);                                                                              \
    } while (0)

/* Rows of three classes, as many as there are whole ones. */
#define CALL_CROSS_ENTROPY(suffix, real)                                                                               \
    do {                                                                                                               \
        const size_t rows = count / 3;                                                                                 \
        real *logits = fill_##suffix(offset, count, 1), *shifted = fill_##suffix(other, count, 2);                     \
        real *chosen = fill_##suffix(offset, rows, 3), *gradient = fill_##suffix(offset, count, 4);                    \
        int64_t *labels = malloc((rows + 1) * sizeof(int64_t));                                                        \
        for (size_t r = 0; r < rows; r++)                                                                              \
            labels[r] = (int64_t)(r % 3);                                                                              \
        expect(0, npdp_shifted_logits_##suffix(logits + offset, labels, shifted + other, chosen + offset, rows, 3),    \
               "shifted_logits_" #suffix, count);                                                                      \
        npdp_cross_entropy_gradient_##suffix(shifted + other, chosen + offset, labels, gradient + offset, rows, 3,     \
                                             (real)0.5, (real)0.1, (real)0.4);                                         \
        labels[0] = 3;                                                                                                 \
        expect(rows > 0, npdp_shifted_logits_##suffix(logits + offset, labels, shifted + other, chosen + offset, rows, \
                                                      3), "shifted_logits_" #suffix " of a wrong label", count);       \
        free(logits), free(shifted), free(chosen), free(gradient), free(labels);                                       \
    } while (0)

static void call_updates(size_t count, size_t offset, size_t other)
{
    CALL_RELU_GRADIENT(f32, float);
    CALL_RELU_GRADIENT(f64, double);
    CALL_CROSS_ENTROPY(f32, float);
    CALL_CROSS_ENTROPY(f64, double);
    for (int flags = 0; flags < 16; flags++) {
        CALL_SGD(f32, float, flags);
        CALL_SGD(f64, double, flags);
    }
    CALL_ADAM(f32, float, 0.0f, 1.0f);
    CALL_ADAM(f32, float, 0.01f, 1.0f);
    CALL_ADAM(f32, float, 0.0f, 0.99f);
    CALL_ADAM(f64, double, 0.0, 1.0);
    CALL_ADAM(f64, double, 0.01, 1.0);
    CALL_ADAM(f64, double, 0.0, 0.99);
}

static void call_scaled_rows(size_t width, size_t offset)
{
    enum { THERE = 6, TAKEN = 9 };
    int64_t rows[TAKEN];
    uint8_t *raw = malloc(THERE * width + offset + 1);
    float *out = fill_f32(offset, TAKEN * width, 0);
    for (size_t i = 0; i < THERE * width; i++)
        raw[offset + i] = (uint8_t)(7 * i);
    for (size_t r = 0; r < TAKEN; r++)
        rows[r] = (int64_t)(5 * r % THERE);
    npdp_scaled_rows_f32(out + offset, raw + offset, rows, TAKEN, width, 0.5f);
    for (size_t i = 0; i < TAKEN * width; i++)
        expect(2 * raw[offset + (size_t)rows[i / width] * width + i % width], (int)out[offset + i], "scaled_rows", width);
    free(raw), free(out);
}

/* Sums of up to four arrays: into all of them, into the first, and in updates. */
#define CALL_COMBINE(suffix, type, DTYPE)                                                                              \
    do {                                                                                                               \
        type *sources[4], *apart = fill_##suffix(offset, count, 5);                                                    \
        const void *from[4];                                                                                           \
        void *into[5];                                                                                                 \
        for (size_t k = 0; k < 4; k++) {                                                                               \
            sources[k] = fill_##suffix((offset + k * other) % OFFSETS, count, k);                                      \
            from[k] = into[k] = sources[k] + (offset + k * other) % OFFSETS;                                           \
        }                                                                                                              \
        into[4] = apart + offset;                                                                                      \
        for (size_t k = 1; k <= 4; k++)                                                                                \
            for (int op = NPDP_SUM; op <= NPDP_MAX; op++, calls += 3) {                                                \
                npdp_combine(op, DTYPE, into, k, from, k, count);                                                      \
                npdp_combine(op, DTYPE, into + k - 1, 1, from, k, count);                                              \
                npdp_combine(op, DTYPE, into + 3, 2, from, k, count);                                                  \
            }                                                                                                          \
        for (size_t k = 0; k < 4; k++)                                                                                 \
            free(sources[k]);                                                                                          \
        free(apart);                                                                                                   \
    } while (0)

#define CALL_COMBINED_UPDATES(suffix, real)                                                                            \
    do {                                                                                                               \
        real *one = fill_##suffix(offset, count, 1), *two = fill_##suffix(other, count, 2);                            \
        real *param = fill_##suffix(other, count, 0), *m = fill_##suffix(offset, count, 3);                            \
        real *v = fill_##suffix(other, count, 4);                                                                      \
        const void *from[2] = {one + offset, two + other};                                                             \
        for (size_t k = 1; k <= 2; k++, calls += 3) {                                                                  \
            npdp_combine_sgd_##suffix(from, k, param + other, NULL, count, (real)0.1, 0, 1, (real)0.01, 0, 0);         \
            npdp_combine_sgd_##suffix(from, k, param + other, m + offset, count, (real)0.1, (real)0.9, 1, 0, 1, 1);    \
            npdp_combine_adam_##suffix(from, k, param + other, m + offset, v + other, count, (real)0.1, (real)0.9,     \
                                       (real)0.1, (real)0.99, (real)0.01, (real)0.1, (real)1e-8, 0, 1);                \
        }                                                                                                              \
        free(one);                                                                                                     \
        free(two);                                                                                                     \
        free(param);                                                                                                   \
        free(m);                                                                                                       \
        free(v);                                                                                                       \
    } while (0)

/* In place, and from two sources into one that lies apart; the first that is not finite, a block's end among others. */
#define CALL_LOOKING(suffix, real)                                                                                     \
    do {                                                                                                               \
        real *one = fill_##suffix(offset, count, 1), *two = fill_##suffix(other, count, 2);                            \
        real *apart = fill_##suffix(other, count, 3);                                                                  \
        const void *from[3] = {one + offset, two + other, one + offset};                                               \
        void *into[3] = {one + offset, two + other, apart + other};                                                    \
        const size_t first = npdp_first_not_finite_##suffix(one + offset, count);                                      \
        for (size_t k = 1; k <= 3; k++) {                                                                              \
            size_t firsts[3] = {count + 5, count + 5, count + 5};                                                      \
            const int found = npdp_sum_looking_##suffix(into + 3 - k, k, from, k, count, 5, firsts);                   \
            expect(first < count, k > 1 ? first < count && found : found, "sum_looking_" #suffix, count);              \
            expect(1, k > 1 || firsts[0] == first + 5, "sum_looking_" #suffix "'s first", count);                      \
        }                                                                                                              \
        free(one);                                                                                                     \
        free(two);                                                                                                     \
        free(apart);                                                                                                   \
    } while (0)

static void call_combine(size_t count, size_t offset, size_t other)
{
    CALL_LOOKING(f32, float);
    CALL_LOOKING(f64, double);
    CALL_COMBINE(f32, float, NPDP_F32);
    CALL_COMBINE(f64, double, NPDP_F64);
    CALL_COMBINE(i32, int32_t, NPDP_I32);
    CALL_COMBINE(i64, int64_t, NPDP_I64);
    CALL_COMBINED_UPDATES(f32, float);
    CALL_COMBINED_UPDATES(f64, double);
}

static void call_all(size_t count, size_t offset)
{
    const size_t other = (offset * 5 + count) % OFFSETS;
    call_accumulate(count, offset, other);
    call_updates(count, offset, other);
    call_combine(count, offset, other);
    call_scaled_rows(count, offset);
    calls += npdp_call_layers(count, offset);
}

/* ---- collectives: a thread is a rank, all on one mapping ---- */

enum { MOST_RANKS = 4, ROUNDS = 400, MOST = 5000, SLOT_BYTES = 64 * MOST_RANKS * 3 };

typedef struct {
    npdp_host host;
    void *pointers[2 * MOST_RANKS + 1];
    size_t firsts[MOST_RANKS];
    pthread_t thread;
    unsigned long wrong;
} rank_of_host;

/* Small whole numbers, other ones on each rank, at each place and in each round. */
static int32_t value(uint32_t rank, size_t i, uint32_t round)
{
    return (int32_t)((i * 7 + rank * 5 + round) % 7) - 3;
}

static void put(int dtype, unsigned char *array, size_t i, int32_t number)
{
    if (dtype == NPDP_F32)
        ((float *)(void *)array)[i] = (float)number;
    else
        ((int64_t *)(void *)array)[i] = number;
}

static int holds(int dtype, const unsigned char *array, size_t i, int32_t number)
{
    return dtype == NPDP_F32 ? (int32_t)((const float *)(const void *)array)[i] == number
                             : ((const int64_t *)(const void *)array)[i] == number;
}

static int32_t folded(int op, uint32_t ranks, size_t i, uint32_t round)
{
    int32_t total = value(0, i, round);
    for (uint32_t rank = 1; rank < ranks; rank++) {
        const int32_t other = value(rank, i, round);
        const int32_t larger = total > other ? total : other, smaller = total > other ? other : total;
        total = op == NPDP_SUM    ? total + other
                : op == NPDP_PROD ? total * other
                : op == NPDP_MIN  ? smaller
                                  : larger;
    }
    return total;
}

static uint32_t owner(size_t count, uint32_t ranks, size_t i)
{
    const size_t size = count / ranks, longer = count % ranks, cut = longer * (size + 1);
    return (uint32_t)(i < cut ? i / (size + 1) : longer + (i - cut) / size);
}

/* How many elements are not what the collective must leave. */
static unsigned long wrong_in(const npdp_host *host, int kind, int op, int dtype, const unsigned char *array,
                              size_t count, uint32_t root, uint32_t round)
{
    unsigned long found = 0;
    for (size_t i = 0; i < count; i++) {
        const uint32_t chunk = owner(count, host->ranks, i);
        const int32_t wanted = kind == NPDP_BROADCAST   ? value(root, i, round)
                               : kind == NPDP_ALLGATHER ? value(chunk, i, round)
                               : kind == NPDP_BARRIER   ? value(host->rank, i, round)
                                                        : folded(op, host->ranks, i, round);
        found += !(kind == NPDP_REDUCE_SCATTER && chunk != host->rank) && !holds(dtype, array, i, wanted);
    }
    return found;
}

/* The same numbers on all ranks: what is called next. */
static uint32_t draw(uint32_t *state, uint32_t below)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % below;
}

static void *be_a_rank(void *argument)
{
    static const size_t limits[] = {10, 140, 2100, MOST};
    rank_of_host *mine = argument;
    npdp_host *host = &mine->host;
    const size_t first = npdp_header_bytes(host->ranks, host->longest_slot);
    uint32_t state = host->ranks;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        const int kind = (int)draw(&state, 5), op = kind < NPDP_ALLGATHER ? (int)draw(&state, 4) : NPDP_SUM;
        const int dtype = draw(&state, 2) ? NPDP_F32 : NPDP_I64;
        const size_t count = draw(&state, (uint32_t)limits[draw(&state, 4)]);
        const uint32_t root = draw(&state, host->ranks), inside = draw(&state, 1u << host->ranks);
        const uint32_t late = draw(&state, host->ranks), bad = draw(&state, 2 * host->ranks); /* half the time nobody */
        const int looking = kind == NPDP_ALLREDUCE && op == NPDP_SUM && dtype == NPDP_F32 && count > 0;
        unsigned char *outside = allocate(count * (dtype == NPDP_F32 ? 4 : 8));
        unsigned char *array = inside >> host->rank & 1 ? host->base + first + host->rank * MOST * 8u : outside;

        for (size_t i = 0; i < count; i++)
            put(dtype, array, i, value(host->rank, i, round));
        if (looking && bad == host->rank)
            ((float *)(void *)array)[count / 2] = NAN;
        for (int i = 0; i < 20 && late == host->rank; i++)
            sched_yield();
        int status = npdp_start(host, kind, op | (looking ? NPDP_LOOKING : 0), dtype, array, count, kind == NPDP_BROADCAST ? root : 0);
        while (status == NPDP_WAITING)
            status = npdp_test(host);
        if (looking && bad < host->ranks)
            mine->wrong += status != NPDP_NOT_FINITE || !isnan(((float *)(void *)array)[count / 2]);
        else
            mine->wrong += (status != NPDP_DONE) + wrong_in(host, kind, op, dtype, array, count, root, round);
        memset(array, 0x55, count * (dtype == NPDP_F32 ? 4 : 8));
        free(outside);
    }
    return NULL;
}

static void call_collectives(uint32_t ranks)
{
    static rank_of_host all[MOST_RANKS];
    const size_t nbytes = npdp_header_bytes(ranks, SLOT_BYTES) + ranks * MOST * 8u;
    void *memory = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        exit(1);
    memset(all, 0, sizeof all);
    for (uint32_t rank = 0; rank < ranks; rank++) {
        all[rank].host = (npdp_host){.base = memory, .nbytes = nbytes, .longest_slot = SLOT_BYTES, .rank = rank,
                                     .ranks = ranks, .spins = 20, .yields = 10, .longest_s = rank % 2 ? 0.01 : 0,
                                     .pointers = all[rank].pointers, .firsts = all[rank].firsts,
                                     .fast_strings = rank % 2 == 0 && npdp_has_fast_strings()};
        if (pthread_create(&all[rank].thread, NULL, be_a_rank, &all[rank]))
            exit(1);
    }
    for (uint32_t rank = 0; rank < ranks; rank++) {
        pthread_join(all[rank].thread, NULL);
        calls += ROUNDS;
        wrong += all[rank].wrong;
    }
    munmap(memory, nbytes);
}

/* ---- mailboxes ---- */

typedef struct {
    pthread_t thread;
    npdp_mail mail;
    unsigned long wrong;
} mail_user;

/* Sends a message of so many bytes to the next rank, in pieces, and takes as long a one from the rank before. */
static void pass_on(mail_user *me, size_t nbytes, unsigned char *sent, unsigned char *taken)
{
    const uint32_t ranks = me->mail.ranks;
    const uint32_t next = (me->mail.rank + 1) % ranks, last = (me->mail.rank + ranks - 1) % ranks;
    size_t to_send = nbytes, to_take = nbytes;

    while (to_send || to_take) {
        const uint32_t heard = npdp_mail_bell(&me->mail);
        const int64_t out = to_send ? npdp_mail_send(&me->mail, next, sent + nbytes - to_send, to_send) : -1;
        const int went = out >= 0;
        const int came = to_take && npdp_mail_take(&me->mail, last, taken + nbytes - to_take, to_take) >= 0;
        if (went)
            to_send -= (size_t)out;
        if (came)
            to_take -= to_take < NPDP_MAIL_MOST ? to_take : NPDP_MAIL_MOST;
        if (!went && !came)
            npdp_mail_wait(&me->mail, heard, 20, 10);
    }
}

static void *use_mail(void *user)
{
    mail_user *me = user;

    for (size_t round = 0; round < ROUNDS; round++) {
        const size_t nbytes = 1 + (round * 997) % (3 * NPDP_MAIL_MOST);
        unsigned char *sent = allocate(nbytes), *taken = allocate(nbytes);
        memset(sent, (int)(me->mail.rank + round) % 200, nbytes);
        me->mail.line = (uint32_t)round % NPDP_MAIL_LINES;
        pass_on(me, nbytes, sent, taken);
        const uint32_t last = (me->mail.rank + me->mail.ranks - 1) % me->mail.ranks;
        for (size_t i = 0; i < nbytes; i++)
            me->wrong += taken[i] != (unsigned char)((last + round) % 200);
        free(sent);
        free(taken);
    }
    return NULL;
}

static void call_mailboxes(uint32_t ranks)
{
    static mail_user all[MOST_RANKS];
    const size_t nbytes = npdp_mail_bytes(ranks);
    void *memory = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        exit(1);
    memset(all, 0, sizeof all);
    for (uint32_t rank = 0; rank < ranks; rank++) {
        all[rank].mail = (npdp_mail){.base = memory, .rank = rank, .ranks = ranks};
        if (pthread_create(&all[rank].thread, NULL, use_mail, &all[rank]))
            exit(1);
    }
    for (uint32_t rank = 0; rank < ranks; rank++) {
        pthread_join(all[rank].thread, NULL);
        calls += ROUNDS;
        wrong += all[rank].wrong;
    }
    munmap(memory, nbytes);
}

/* Small whole numbers, so that sums are exact in any order. */
static float *small_numbers(size_t count, size_t start)
{
    float *array = allocate(count * sizeof(float));
    for (size_t i = 0; i < count; i++)
        array[i] = (float)((i * 7 + start) % 5) - 2.0f;
    return array;
}

static void expect_products(const float *a, size_t a_row, size_t a_step, const float *b, size_t b_row, size_t b_step,
                            const float *c, const size_t sizes[3], const char *name)
{
    for (size_t i = 0; i < sizes[0]; i++)
        for (size_t j = 0; j < sizes[2]; j++) {
            float sum = 0;
            for (size_t k = 0; k < sizes[1]; k++)
                sum += a[i * a_row + k * a_step] * b[k * b_row + j * b_step];
            expect((int)sum, (int)c[i * sizes[2] + j], name, j);
        }
}

typedef struct {
    npdp_product *times, *times_transposed, *transposed_times;
} products;

static void call_products(const products *make, size_t rows, size_t in, size_t out)
{
    float *x = small_numbers(rows * in, 1), *w = small_numbers(in * out, 2), *y = small_numbers(rows * out, 3);

    if (make->times != NULL) {
        expect(0, make->times(x, w, y, rows, in, out), "times", out);
        expect_products(x, in, 1, w, out, 1, y, (const size_t[]){rows, in, out}, "times");
    }
    free(x);
    x = small_numbers(rows * in, 1);
    memcpy(y, w, (rows < in ? rows : in) * out * sizeof(float)); /* small again */
    expect(0, make->transposed_times(x, y, w, rows, in, out), "transposed_times", out);
    expect_products(x, 1, in, y, out, 1, w, (const size_t[]){in, rows, out}, "transposed_times");
    free(w);
    w = small_numbers(in * out, 2);
    expect(0, make->times_transposed(y, w, x, rows, in, out), "times_transposed", out);
    expect_products(y, out, 1, w, 1, out, x, (const size_t[]){rows, out, in}, "times_transposed");
    free(x), free(w), free(y);
}

static void call_all_products(const products *make)
{
    for (size_t more = 0; more < 12; more++)
        call_products(make, 32 + 9 * more, 8 + 101 * more, 32 + 13 * more);
    call_products(make, 140, 1030, 65);
    call_products(make, 1100, 70, 33);
}

/* With an argument: the products alone. */
int main(int arguments, char **argument)
{
    (void)argument;
    const products avx512 = {npdp_times_f32, npdp_times_transposed_f32, npdp_transposed_times_f32};
    const products amx = {npdp_amx_times_f32, npdp_amx_times_transposed_f32, npdp_amx_transposed_times_f32};
    const products avx2 = {NULL, npdp_avx2_times_transposed_f32, npdp_avx2_transposed_times_f32};
    const products narrow = {npdp_narrow_times_f32, npdp_narrow_times_transposed_f32,
                             npdp_narrow_transposed_times_f32};
    const products avx2_narrow = {npdp_avx2_narrow_times_f32, npdp_avx2_narrow_times_transposed_f32,
                                  npdp_avx2_narrow_transposed_times_f32};
    if (npdp_processor() & NPDP_HAS_AVX512)
        call_all_products(&avx512);
    if (npdp_processor() & NPDP_HAS_AMX)
        call_all_products(&amx);
    if (npdp_processor() & NPDP_HAS_AVX2)
        call_all_products(&avx2);
    for (size_t more = 0; more < 12; more++) {
        if (npdp_processor() & NPDP_HAS_AVX512)
            call_products(&narrow, 32 + 9 * more, 5 + 83 * more, 32 + 13 * more);
        if (npdp_processor() & NPDP_HAS_AVX2)
            call_products(&avx2_narrow, 16 + 9 * more, 5 + 83 * more, 16 + 13 * more);
    }
    const int all = arguments == 1;
    for (uint32_t ranks = 1; all && ranks <= MOST_RANKS; ranks++)
        call_collectives(ranks);
    for (uint32_t ranks = 1; all && ranks <= MOST_RANKS; ranks++)
        call_mailboxes(ranks);
    for (size_t offset = 0; all && offset < OFFSETS; offset++) {
        for (size_t count = 0; count <= LONGEST; count++)
            call_all(count, offset);
        call_all(LARGE, offset);
    }
    printf("sanitize: %lu calls, %lu wrong\n", calls, wrong);
    return wrong == 0 ? 0 : 1;
}
