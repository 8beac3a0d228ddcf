"""Benchmarks, `npdp bench`: collectives and training iterations, timed on the ranks at hand, results checked too.

    flags.py        what is wanted, and what is wrong with it, before anything is started
    run.py          from flags to ranks
    collectives.py  a table of sizes and algorithms        iteration.py  a table of models
    calibrate.py    the constants by which auto chooses    accuracy.py   how good they were
    cases.py        what is called, on which inputs, with which result
    timing.py       how: rounds in which contenders take turns; the slowest rank counts

After NVIDIA's nccl-tests (doc/PERFORMANCE.md there): sizes, algbw and busbw mean the same.
"""
