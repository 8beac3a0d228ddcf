"""Under mpirun with ULFM a killed rank takes nothing along; an exception ends all."""

import json

import numpy as np
import pytest
from launching import mpirun, needs_mpi, shared_memory, why_no_ulfm

from npdp.elastic.ledger import expected_checksum

pytestmark = [needs_mpi, pytest.mark.skipif(bool(why_no_ulfm()), reason=why_no_ulfm())]
ULFM = ("--with-ft", "ulfm")
SAMPLES, EPOCHS = 300, 3


def trained(ranks, algorithm, deaths):
    """Return what each rank that lived says, having checked all but the parameters."""
    outcome = mpirun(ranks, "elastic.py", algorithm, json.dumps(deaths), flags=ULFM)
    assert outcome.code == 0, outcome.stderr
    said = sorted((json.loads(line) for line in outcome.stdout.splitlines()), key=lambda of: of["number"])
    dead = {number for number, _ in deaths}
    assert [of["number"] for of in said] == [number for number in range(ranks) if number not in dead], outcome.stderr
    for of in said:
        assert of["world_size"] == ranks - len(dead)
        assert (of["samples"], of["checksum"]) == (SAMPLES * EPOCHS, expected_checksum(SAMPLES, EPOCHS))
    return said


@pytest.mark.parametrize("algorithm", ["auto", "ring"])
@pytest.mark.parametrize("deaths", [[[2, 5]], [[0, 4], [1, 9]], [[0, 8], [3, 8], [1, 20]]], ids=str)
def test_deaths_change_neither_the_parameters_nor_which_samples_were_used(algorithm, deaths):
    before = shared_memory()
    (wanted,) = trained(1, algorithm, [])
    for of in trained(4, algorithm, deaths):
        assert of["recoveries"] >= 1
        assert np.linalg.norm(np.subtract(of["values"], wanted["values"])) < 1e-10
        assert np.allclose(list(of["losses"].values()), list(wanted["losses"].values()), rtol=1e-10)
    assert shared_memory() <= before
