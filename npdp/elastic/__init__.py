"""Faults on purpose, to see how training goes on."""
