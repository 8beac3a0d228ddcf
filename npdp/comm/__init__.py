"""Communication between ranks: transports, shared memory, waiting, and the end of a world."""
