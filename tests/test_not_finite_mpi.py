"""Under mpirun a rank's gradient that is not finite ends all with code 1, one line, and the batch kept."""

import re

import numpy as np
from launching import mpirun, needs_mpi
from training import strict_lines

pytestmark = needs_mpi


def test_all_ranks_end_with_one_line_an_event_and_the_batch(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((40, 3))
    x[17] = 3e30
    np.savez(tmp_path / "data.npz", x=x, y=x[:, 0], x_test=x[:5], y_test=x[:5, 0])
    given = ("--data", f"{tmp_path}/data.npz", "--metrics", f"{tmp_path}/run.jsonl")
    code, out, error = mpirun(3, "-m", "npdp.train", "--quiet", "--global-batch-size", "8", *given)
    (rank,) = re.findall(r"npdp: error: iteration \d: the gradient is not finite: rank (\d)'s has NaN", error)
    (path,) = tmp_path.glob("not_finite_*")
    assert code == 1 and not out and "Traceback" not in error and path.name.endswith(f"_rank{rank}.npz")
    last = strict_lines((tmp_path / "run.jsonl").read_text())[-1]
    assert (last["event"], last["files"]) == ("not_finite", [str(path)])
    with np.load(path) as kept:
        assert 17 in kept["rows"] and kept["rows"].tolist() == last["ranks"][0]["rows"]
