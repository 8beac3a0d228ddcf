"""Chains of waits: who waits for whom, up to the ranks that wait for nobody and are late.

    0 ──▶ 1 ──▶ 2        2 is late; 1 waits for it too
    0 ──▶ 1 ──▶ 0        they wait for each other: nobody is late
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from npdp.comm.failures.board import ELSEWHERE, ENDED, STOPPED, Seen, Wait

Late = tuple[int, bool]  # a rank, and whether it is so as a server
Look = Callable[[int], Seen]


def late_ranks(
    look: Look, wait: Wait, waiting_elsewhere: Container[int] = (), ranks: Sequence[int] = ()
) -> list[Late]:
    """Return the roots of a wait: whom it is for, over others that wait too, and who wait for nobody.

    One that was stopped, or ended, while it waited is late.

    Args:
        look: returns what is seen of a rank.
        waiting_elsewhere: the ranks of other hosts that are known to wait, for whoever of `ranks` does not.
    """
    roots: list[Late] = []
    ahead, met = [(rank, wait.of_servers) for rank in wait.ranks], set[Late]()
    while ahead:
        late = ahead.pop()
        if late in met:
            continue
        met.add(late)
        seen = look(late[0])
        further = seen.waits[late[1]] if seen.state not in (STOPPED, ENDED) else None
        if further is not None:
            ahead += [(rank, further.of_servers) for rank in further.ranks]
        elif seen.state == ELSEWHERE and late[0] in waiting_elsewhere:
            ahead += [(rank, False) for rank in ranks if rank not in waiting_elsewhere]
        else:
            roots.append(late)
    return sorted(roots)
