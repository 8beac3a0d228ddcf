"""Collectives as data: schedules, the proof that they are right, and what carries them out."""
