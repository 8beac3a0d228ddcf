"""Helpers that all of npdp may use and that use nothing of it."""
