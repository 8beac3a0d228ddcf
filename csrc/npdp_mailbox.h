/* Mailboxes in memory that all ranks of a host map: the contract. cffi reads these lines too.
 *
 * There are NPDP_MAIL_LINES lines, in each a box from each rank to each; it holds a message, or a piece of one, of up
 * to NPDP_MAIL_MOST bytes until it is taken. Every rank has a bell, for all lines, which rings when something was put
 * in a box for it or taken out of one of its own. To wait: read the bell, look into the boxes, and, where there is
 * nothing to do, wait until the bell has rung since.
 *
 * The memory, zero at first, has npdp_mail_bytes(ranks) bytes and starts on a cache line. What a rank wrote before it
 * sent, the receiver sees after it has taken.
 */
#ifndef NPDP_MAILBOX_H
#define NPDP_MAILBOX_H

#include <stddef.h>
#include <stdint.h>

enum { NPDP_MAIL_LINES = 2, NPDP_MAIL_MOST = 2032 };

typedef struct {
    unsigned char *base;
    uint32_t rank, ranks, line;
    double wait_s; /* seconds in which this rank waited */
} npdp_mail;

size_t npdp_mail_bytes(uint32_t ranks);

/* Puts a piece, the first of the `left` bytes of a message that are still to go, into the box for `to`; returns how
 * many bytes it has, -1 where the last one has not been taken yet. */
int64_t npdp_mail_send(const npdp_mail *mail, uint32_t to, const void *rest, size_t left);

/* Takes the piece from `from` if as many bytes of its message are left as the receiver thinks, which then has room for
 * them; returns how many are left, -1 where there is no piece. One of which another number is left stays. */
int64_t npdp_mail_take(const npdp_mail *mail, uint32_t from, void *rest, size_t left);

/* How often this rank's bell has rung. */
uint32_t npdp_mail_bell(const npdp_mail *mail);

/* Waits until it has rung more often than `heard`, 10 ms at most: spins, yields between spins, sleeps. Returns how
 * often it has rung. */
uint32_t npdp_mail_wait(npdp_mail *mail, uint32_t heard, uint32_t spins, uint32_t yields);

#endif
