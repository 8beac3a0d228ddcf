"""What looks for mistakes between ranks: other calls, vain waits, forks, and how a world ends."""
