"""On several hosts: the hierarchical all-reduce on every size and kind of memory; rank 0 prints what came out.

`hierarchical.py threads` does the same on a world of threads on two hosts, and prints the same hashes.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from memories import MEMORIES, Arrays, do_in
from worlds import run

import npdp
from npdp.parallel.world import init

COUNTS = (1, 250, 3_000, 20_000, 1_300_001)  # gathered, in one piece, in three
LARGE = 1_000_000  # float32, a hash of whose sum is told, and how many bytes left rank 0's host for it


def sent() -> int:
    try:
        return int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())
    except OSError:
        return 0


def program():
    arrays = Arrays(COUNTS[-1], ["float32"])
    wrong = [
        do_in(arrays, memory, "allreduce", "hierarchical", "float32", op, count, salt=salt)
        for salt, (memory, op) in enumerate((memory, op) for memory in MEMORIES[:4] for op in ("sum", "max"))
        for count in (COUNTS if op == "sum" else COUNTS[:-1])
    ]
    numbers = np.random.default_rng(npdp.rank()).standard_normal(LARGE).astype(np.float32)
    npdp.barrier()
    before = sent()
    npdp.allreduce(numbers, algorithm="hierarchical")
    npdp.barrier()
    hosts = init().topology.hosts
    told = [hosts, [text for text in wrong if text], hashlib.sha256(numbers).hexdigest(), sent() - before]
    return [json.loads(text) for text in init().gather_texts(json.dumps(told))]


if sys.argv[1:] == ["threads"]:
    print(json.dumps(run(4, program, hosts=(0, 0, 1, 1))[0]))
else:
    result = program()
    if npdp.rank() == 0:
        print(json.dumps(result))
