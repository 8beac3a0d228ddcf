"""The loader where a world changes its size, and in a thread beside a rank's own."""

import threading
from itertools import chain

import pytest
from servers import numbers
from worlds import run

import npdp
from npdp.data import DataLoader, epoch_order
from npdp.parallel.world import become, init


def labels(loader):
    return [label for _, y in loader for label in y.data.tolist()]


def become_smaller(size):
    """Go on with the first ranks of this world, as workers do without their servers."""
    world = init()
    world.narrow(world.transport.subworld(range(size)))
    become(world)


def test_epochs_go_on_where_a_world_changes_its_size_more_than_once():
    def program():
        loader = DataLoader(numbers(24), 8, shuffle=True, seed=5)
        seen = [labels(loader)]
        for size in (3, 2):
            if npdp.rank() >= size:
                break
            become_smaller(size)
            seen += [labels(loader) for _ in range(2)]
        return seen

    seen = run(4, program)
    for number in range(5):
        parts = [of_rank[number] for of_rank in seen if number < len(of_rank)]
        assert sorted(chain(*parts)) == list(range(24))
        first = epoch_order(24, 5, number)[: 8 // len(parts)].tolist()
        assert parts[0][: len(first)] == first, f"epoch {number}"


@pytest.mark.parametrize("narrows", [False, True])
def test_a_loader_that_a_thread_of_a_rank_on_threads_goes_through_gives_that_ranks_part(narrows):
    """As one that fetches batches ahead does; each epoch may have a thread of its own."""

    def program():
        loader, seen = DataLoader(numbers(24), 8, shuffle=True, seed=5), []
        if narrows:
            if npdp.rank() == 2:
                return None
            become_smaller(2)
        for _ in range(2):
            thread = threading.Thread(target=lambda: npdp.rank() or seen.append(labels(loader)))  # it is rank 0 of one
            thread.start()
            thread.join()
        return seen, labels(loader), loader

    got = run(3, program)[: 3 - narrows]
    whole = list(range(24))
    assert [sorted(chain(*(seen[number] for seen, *_ in got))) for number in range(2)] == [whole] * 2
    assert sorted(chain(*(third for _, third, _ in got))) == whole
    assert [got[0][0][0][:2], got[0][1][:2]] == [epoch_order(24, 5, epoch)[:2].tolist() for epoch in (0, 2)]
    assert got[1][2].world_size == 1  # when its world has ended
