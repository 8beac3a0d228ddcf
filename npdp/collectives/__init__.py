"""Collectives: schedules as data, the proof that they are right, and the loops that carry them out."""
