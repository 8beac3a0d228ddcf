"""Communication between ranks: who can send to whom, over what, and how a world ends."""
