"""Where arithmetic and communication meet: the world, and the ways to train in it."""
