"""Data parallel training, where arithmetic and communication meet: the world, and the strategies."""
