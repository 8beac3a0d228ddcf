"""Arrays may be read by ranks that are threads, all at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from npdp.data import sources
from npdp.parallel.parameter_server import arrivals
from npdp.parallel.parameter_server.messages import Unit
from npdp.parallel.parameter_server.server import Arrival


def test_threads_read_the_same_files_at_once(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.arange(60.0).reshape(20, 3), y=np.arange(20) % 2)
    arrivals.save(str(tmp_path / "record"), [[Arrival(0, Unit(0, 0, 1), 0)]], {"seed": 0})

    def read(_):
        data = sources.load(str(tmp_path / "data.npz"))
        record = arrivals.load(str(tmp_path / "record"), {"seed": 0})
        return len(data.train), record

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(read, range(300)))
    assert all(outcome == (16, [[Arrival(0, Unit(0, 0, 1), 0)]]) for outcome in outcomes)
