/* Mailboxes in memory that all ranks of a host map; the contract is in npdp_mailbox.h.
 *
 *     base   | bell of 0 | bell of 1 | ... | line 0: box 0 to 0 | box 0 to 1 | ... | box 1 to 0 | ... | line 1: ...
 *
 * A box is full while it was filled more often than emptied; only its sender fills it and only its receiver empties it.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <string.h>

#include "npdp_mailbox.h"
#include "waiting.h"

enum { BELL_BYTES = 128, LONGEST_WAIT_MS = 10 };

typedef struct {
    uint32_t rung, sleepers;
} bell;

typedef struct {
    uint32_t filled, emptied;
    uint64_t left; /* bytes of the message, this piece among them */
    unsigned char piece[NPDP_MAIL_MOST];
} box;

static bell *bell_of(const npdp_mail *mail, uint32_t rank)
{
    return (bell *)(void *)(mail->base + (size_t)rank * BELL_BYTES);
}

static box *box_between(const npdp_mail *mail, uint32_t from, uint32_t to)
{
    const size_t number = ((size_t)mail->line * mail->ranks + from) * mail->ranks + to;
    return (box *)(void *)(mail->base + (size_t)mail->ranks * BELL_BYTES + number * sizeof(box));
}

size_t npdp_mail_bytes(uint32_t ranks)
{
    return (size_t)ranks * (BELL_BYTES + NPDP_MAIL_LINES * (size_t)ranks * sizeof(box));
}

static size_t piece_bytes(size_t left)
{
    return left < NPDP_MAIL_MOST ? left : NPDP_MAIL_MOST;
}

static void ring(const npdp_mail *mail, uint32_t rank)
{
    bell *theirs = bell_of(mail, rank);
    __atomic_add_fetch(&theirs->rung, 1, __ATOMIC_SEQ_CST);
    wake(&theirs->rung, &theirs->sleepers);
}

int64_t npdp_mail_send(const npdp_mail *mail, uint32_t to, const void *rest, size_t left)
{
    box *theirs = box_between(mail, mail->rank, to);
    if (__atomic_load_n(&theirs->emptied, __ATOMIC_ACQUIRE) != theirs->filled)
        return -1;
    memcpy(theirs->piece, rest, piece_bytes(left));
    theirs->left = left;
    __atomic_store_n(&theirs->filled, theirs->filled + 1, __ATOMIC_RELEASE);
    ring(mail, to);
    return (int64_t)piece_bytes(left);
}

int64_t npdp_mail_take(const npdp_mail *mail, uint32_t from, void *rest, size_t left)
{
    box *mine = box_between(mail, from, mail->rank);
    if (__atomic_load_n(&mine->filled, __ATOMIC_ACQUIRE) == mine->emptied)
        return -1;
    const uint64_t left_here = mine->left;
    if (left_here != left)
        return (int64_t)left_here;
    memcpy(rest, mine->piece, piece_bytes(left));
    __atomic_store_n(&mine->emptied, mine->emptied + 1, __ATOMIC_RELEASE);
    ring(mail, from);
    return (int64_t)left_here;
}

uint32_t npdp_mail_bell(const npdp_mail *mail)
{
    return __atomic_load_n(&bell_of(mail, mail->rank)->rung, __ATOMIC_SEQ_CST);
}

uint32_t npdp_mail_wait(npdp_mail *mail, uint32_t heard, uint32_t spins, uint32_t yields)
{
    bell *mine = bell_of(mail, mail->rank);
    const double before = now_s(), until = before + 1e-3 * LONGEST_WAIT_MS;
    for (uint32_t i = 0; i < spins && npdp_mail_bell(mail) == heard; i++)
        look_again_soon();
    for (uint32_t i = 0; i < yields && npdp_mail_bell(mail) == heard && now_s() < until; i++)
        sched_yield();
    if (npdp_mail_bell(mail) == heard)
        sleep_while(&mine->rung, &mine->sleepers, heard, until - now_s());
    mail->wait_s += now_s() - before;
    return npdp_mail_bell(mail);
}
