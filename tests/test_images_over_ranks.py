"""CNNs with batch normalisation, and recurrent layers: any number of ranks trains the model of one rank."""

import images
import numpy as np
import pytest
from images import SHAPES, program
from launching import mpirun, needs_mpi
from servers import served
from worlds import Parallel, Plain, assert_as_on_one_rank, assert_close, run

EXACT = 1e-10
models = pytest.mark.parametrize("make", SHAPES)
batch_sizes = pytest.mark.parametrize("batch_size", [12, 7])


@models
@batch_sizes
@pytest.mark.parametrize("update", ["replicated", "fused"])
def test_any_number_of_ranks_trains_the_model_of_one(make, batch_size, update):
    assert_as_on_one_rank(lambda way: program(way, make, batch_size), way=Parallel(update=update), tolerance=EXACT)


@models
@batch_sizes
@pytest.mark.parametrize(("servers", "workers"), [(1, 1), (1, 2), (2, 3), (0, 4)])
def test_workers_of_a_synchronous_parameter_server_train_the_model_of_one_rank(make, batch_size, servers, workers):
    wanted = run(1, program, Plain(), make, batch_size)[0]
    for rank, got in enumerate(served(lambda way: program(way, make, batch_size), servers, workers)):
        assert_close(got, wanted, f"worker {rank}", EXACT)


@models
def test_ranks_of_several_hosts_train_the_model_of_one(make):
    wanted = run(1, program, Plain(), make, 7)[0]
    for rank, got in enumerate(run(4, program, Parallel(), make, 7, hosts=(0, 0, 1, 1))):
        assert_close(got, wanted, f"rank {rank}", EXACT)


@needs_mpi
def test_ranks_under_mpi_train_the_model_of_one(tmp_path):
    code, stdout, stderr = mpirun(3, "images.py", str(tmp_path), timeout=60)
    assert (code, stdout, stderr) == (0, "", "")
    for make in SHAPES:
        wanted = run(1, program, Plain(), make, 12)[0]
        found = sorted(tmp_path.glob(f"{make.__name__}-*.npz"))
        assert len(found) == 2 * 3
        for path in found:
            with np.load(path) as arrays:
                assert_close(dict(arrays), wanted, path.name, EXACT)


def test_some_parts_of_these_batches_are_empty():
    assert images.SAMPLES % 12 == 1 and images.SAMPLES % 7 == 4
