from npdp.collectives import add, put


def halving_doubling(world_size):
    steps = []
    distance = world_size // 2
    while distance:
        steps.append([(rank, rank ^ distance, (rank ^ distance) // distance * distance) for rank in range(world_size)])
        distance //= 2
    for number, step in enumerate(steps):
        width = world_size >> (number + 1)
        yield [add(rank, partner, start, start + width) for rank, partner, start in step]
    for number, step in reversed(list(enumerate(steps))):
        width = world_size >> (number + 1)
        yield [put(partner, rank, start, start + width) for rank, partner, start in step]
