"""Detection of mistakes between ranks (different calls, vain waits, forks), and the end of a world."""
