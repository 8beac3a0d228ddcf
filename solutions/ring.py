from npdp.collectives import add, put


def ring(world_size):
    ranks = range(world_size)
    for step in range(world_size - 1):
        yield [add(rank, (rank + 1) % world_size, (rank - step - 1) % world_size) for rank in ranks]
    for step in range(world_size - 1):
        yield [put(rank, (rank + 1) % world_size, (rank - step) % world_size) for rank in ranks]
