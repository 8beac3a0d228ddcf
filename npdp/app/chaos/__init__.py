"""Chaos: the same training many times, each with faults drawn from a seed, and a look whether its promises hold.

    ground.py       what the flags make of it: which faults there can be, which are survived
    draws.py        the faults of one run
    runs.py         one run, in a session of its own, with a time limit, and what it leaves behind
    promises.py     what is promised of it, by the undisturbed run
    command.py      all runs, their lines, the table
"""
