"""Under mpirun: rank 1 prints at which ports it listens, and by which transports Open MPI sends."""

import os
from pathlib import Path

import npdp

TRANSPORTS = "OMPI_MCA_btl"
LISTEN = "0A"  # as /proc/net/tcp writes it

npdp.init()
npdp.barrier()
if npdp.rank() == 1:
    mine = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            mine.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:  # that of the directory itself
            continue
    rows = [line.split() for name in ("tcp", "tcp6") if os.path.exists(f"/proc/net/{name}")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]  # fmt: skip
    ports = [row[1] for row in rows if row[3] == LISTEN and row[9] in mine]
    print(npdp.init().transport.name, os.environ.get(TRANSPORTS), len(ports), sep="\n")
npdp.barrier()
