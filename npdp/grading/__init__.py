"""Exercises that grade themselves: `npdp grade ring yours.py`.

    this process                                          a process for each rank, sealed (child.py)
    draws cases, answers send and receive       ◀────▶    runs the student's file, and nothing of npdp's
    compares what comes back, reads the clock

A student's program never runs in the process that judges it, and what comes back is data: numbers, lists, arrays. So a
patched clock, an `__eq__` that is always true or a caught exception change nothing here.
"""
