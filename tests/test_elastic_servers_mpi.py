"""Under mpirun with ULFM a worker or a server is killed, and `npdp train --elastic --strategy ps` goes on."""

import numpy as np
import pytest
from launching import mpirun, needs_mpi, python, shared_memory, why_no_ulfm
from training import DIGITS_TRAIN, read_run

from npdp.elastic.ledger import expected_checksum

pytestmark = [needs_mpi, pytest.mark.skipif(bool(why_no_ulfm()), reason=why_no_ulfm())]
EPOCHS = 3
WORKER, FIRST_WORKER = "kill@rank=1,iteration=30,part=backward", "kill@rank=0,iteration=17,part=update"
SERVER, FIRST_SERVER = "kill@rank=3,iteration=40,part=update", "kill@rank=2,iteration=1,part=update"
ONLY_SERVER = "kill@rank=2,iteration=9,part=update"


def trained(folder, staleness, *faults, servers=2, ranks=4):
    folder.mkdir()
    flags = [part for fault in faults for part in ("--inject", fault)]
    out = "--metrics", f"{folder}/run.jsonl", "--save", f"{folder}/model.npz"
    outcome = mpirun(
        ranks, "-m", "npdp.train", "--elastic", "--strategy", "ps", "--servers", str(servers), "--staleness", staleness,
        "--epochs", str(EPOCHS), "--dtype", "float64", "--quiet", *flags, *out, flags=("--with-ft", "ulfm"), timeout=60,
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    return read_run(outcome.code, folder)


def assert_nothing_lost(one, deaths):
    end = one.end
    assert (end["samples_seen"], end["samples_checksum"]) == (
        DIGITS_TRAIN * EPOCHS, expected_checksum(DIGITS_TRAIN, EPOCHS))  # fmt: skip
    events = [event["event"] for event in one.events]
    assert end["recoveries"] == events.count("recovery") == deaths
    assert events.count("end") == events.count("start") == 1
    assert [event["epoch"] for event in one.events if event["event"] == "epoch"] == [1, 2, 3]


def test_with_staleness_0_the_parameters_are_those_of_an_undisturbed_run(tmp_path):
    before, wanted = shared_memory(), trained(tmp_path / "undisturbed", "0")
    for number, (servers, ranks, *faults) in enumerate((
        (2, 4, WORKER), (2, 4, SERVER), (2, 4, FIRST_SERVER, FIRST_WORKER), (1, 3, ONLY_SERVER), (0, 2, FIRST_WORKER),
    )):  # fmt: skip
        one = trained(tmp_path / str(number), "0", *faults, servers=servers, ranks=ranks)
        assert_nothing_lost(one, len(faults))
        assert np.linalg.norm(one.parameters - wanted.parameters) < 1e-10, faults
    assert shared_memory() <= before


@pytest.mark.parametrize("staleness", ["1", "inf"])
@pytest.mark.parametrize("fault", [WORKER, SERVER])
def test_with_a_staleness_each_sample_is_used_once(tmp_path, staleness, fault):
    assert_nothing_lost(trained(tmp_path / "run", staleness, fault), 1)


@pytest.mark.parametrize("strategy", [("ps", "--servers", "1"), ("ps", "--staleness", "inf"), ("allreduce",)])
def test_a_stop_ends_all_ranks_and_is_told_by_the_first_that_lives(tmp_path, strategy):
    outcome = python(
        "-m", "npdp", "train", "--ranks", "3", "--elastic", "--strategy", *strategy, "--epochs", "1000000", "--quiet",
        "--time-limit", "4s", "--inject", "kill@rank=0,iteration=2,part=update", timeout=60,
    )  # fmt: skip
    assert outcome.code == 124
    assert outcome.stderr.count("npdp: note: stopped by --time-limit after iteration") == 1, outcome.stderr
