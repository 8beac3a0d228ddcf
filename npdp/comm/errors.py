"""Errors of communication between ranks."""


class CommunicationError(RuntimeError):
    """Error: a message did not fit or will never come; the ranks do not do the same thing."""


class WorldEnded(BaseException):
    """Unwinds this rank when another has failed. Not an Exception, so that no handler of the user's keeps it."""
