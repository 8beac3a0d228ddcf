"""What can go wrong between ranks."""


class CommunicationError(RuntimeError):
    """A message did not fit or will never come: the ranks do not do the same thing."""


class WorldEnded(BaseException):
    """Another rank has failed; unwinds this one. Not an Exception, so that no handler of the user's keeps it."""
