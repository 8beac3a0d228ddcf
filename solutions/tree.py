from npdp.collectives import add, put


def tree(world_size):
    distances = [1 << power for power in range((world_size - 1).bit_length())]
    for distance in distances:
        givers = range(distance, world_size, 2 * distance)
        yield [add(rank, rank - distance, 0, world_size) for rank in givers]
    for distance in reversed(distances):
        getters = range(distance, world_size, 2 * distance)
        yield [put(rank - distance, rank, 0, world_size) for rank in getters]
