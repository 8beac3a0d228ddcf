"""Under mpirun with ULFM a killed rank takes nothing along; an exception ends all."""

import json

import numpy as np
import pytest
from launching import mpirun, needs_mpi, python, shared_memory, why_no_ulfm
from training import fit, off, read_run

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


def text(folder):
    path = folder / "book.txt"
    path.write_text("".join(f"{number} times {number} is {number * number}. " for number in range(120)))
    return ["--data", path, "--context", 8, "--layers", 1, "--heads", 2, "--width", 16, "--dropout", 0.1]


def sparse(folder):
    path = folder / "rows.svm"
    path.write_text("".join(f"{row % 3} {row % 17 + 1}:1 {row % 31 + 20}:0.5\n" for row in range(400)))
    return ["--data", path, "--sparse", "--learning-rate", 0.5]


KINDS = {
    "accumulation and clipping": lambda folder: ["--model", "mlp", "--hidden", 32, "--accumulate", 3, "--clip-norm", 1],
    "sparse parameters": sparse,
    "a language model": text,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_trains_on_to_the_same_model_and_the_next_rank_0_writes_it(kind, tmp_path):
    flags = [*map(str, KINDS[kind](tmp_path)), "--epochs", "2", "--dtype", "float64"]
    kills = ["--inject", "kill@rank=1,iteration=4,part=backward", "--inject", "kill@rank=0,iteration=7,part=exchange"]
    results = ["--metrics", f"{tmp_path}/run.jsonl", "--save", f"{tmp_path}/model.npz"]
    outcome = mpirun(3, "-m", "npdp.train", "--elastic", *flags, *kills, *results, flags=ULFM)
    assert outcome.code == 0, outcome.stderr
    run, wanted = read_run(outcome.code, tmp_path), fit(*flags)
    assert off(run, wanted) < 1e-10
    recoveries = [event for event in run.events if event["event"] == "recovery"]
    assert [(of["ranks_lost"], of["world_size"]) for of in recoveries] == [([1], 2), ([0], 1)]
    assert (run.end["recoveries"], run.end["samples_seen"]) == (2, wanted.end["samples_seen"])
    assert run.end["samples_checksum"] == expected_checksum(run.end["samples_seen"] // 2, 2)
    epochs = [[event for event in of.events if event["event"] == "epoch"] for of in (run, wanted)]
    assert [of["epoch"] for of in epochs[0]] == [1, 2]
    assert np.allclose(*([event["train_loss"] for event in of] for of in epochs), rtol=1e-10)
    assert "rank 0 died; after 6 iterations training goes on with 1 rank" in outcome.stdout


def test_an_exception_is_no_death_and_ends_all_with_one_traceback():
    raised = ("--inject", "raise@rank=1,iteration=20,part=backward")
    outcome = mpirun(3, "-m", "npdp.train", "--elastic", "--quiet", *raised, flags=ULFM)
    assert outcome.code == 1
    assert outcome.stderr.count("Traceback") == 1


def test_what_cannot_be_used_is_said_in_one_line_with_code_2():
    outcome = mpirun(2, "-m", "npdp.train", "--elastic", "--data", "/nothing", flags=ULFM)
    assert (outcome.code, outcome.stderr.count("npdp: error: ")) == (2, 1)
    outcome = mpirun(2, "-m", "npdp.train", "--elastic")
    assert outcome.code == 2
    assert "wanted mpirun --with-ft ulfm" in outcome.stderr


def test_a_spare_takes_the_place_of_a_dead_rank_and_those_left_over_end_with_the_others(tmp_path):
    flags = ("--epochs", "2", "--dtype", "float64")
    results = ("--metrics", f"{tmp_path}/run.jsonl", "--save", f"{tmp_path}/model.npz", "--spares", "2")
    kill = ("--inject", "kill@rank=0,iteration=9,part=exchange")
    outcome = mpirun(4, "-m", "npdp.train", "--elastic", *flags, *kill, *results, flags=ULFM)
    assert outcome.code == 0, outcome.stderr
    run = read_run(outcome.code, tmp_path)
    assert off(run, fit(*flags)) < 1e-10
    assert [event["world_size"] for event in run.events if "world_size" in event] == [2, 2, 2]


def test_a_rank_that_ends_by_itself_ends_all_with_a_message():
    ends = ("--inject", "exit@rank=1,iteration=9,part=exchange")
    outcome = mpirun(3, "-m", "npdp.train", "--elastic", "--quiet", *ends, flags=ULFM)
    assert outcome.code != 0
    assert "one has ended by itself, and was not killed" in outcome.stderr


LAUNCHED = ("-m", "npdp", "train", "--ranks", "3", "--elastic", "--quiet", "--epochs", "2")


def test_where_all_ranks_die_the_command_fails_and_restarts_go_on_from_the_checkpoint(tmp_path):
    flags = (*LAUNCHED, "--inject", "kill@iteration=30,part=exchange")
    outcome = python(*flags)
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[-1] == "npdp: error: all ranks have died"
    kept = ("--checkpoint", f"{tmp_path}/kept", "--checkpoint-every", "5", "--restarts", "1")
    outcome = python(*flags, *kept)
    assert outcome.code == 0 and "started again from iteration" in outcome.stderr


@pytest.mark.parametrize(("first_to_die", "code"), [(0, 1), (1, 0)])
def test_a_program_of_ones_own_fails_where_all_its_ranks_die(first_to_die, code, tmp_path):
    program = tmp_path / "dies.py"
    program.write_text("import os, npdp\nnpdp.init()\n"
                       f"if npdp.rank() >= {first_to_die}:\n    os.kill(os.getpid(), 9)\n")  # fmt: skip
    outcome = python("-m", "npdp", "run", "--ranks", "2", "--elastic", str(program))
    assert outcome.code == code, outcome.stderr
    assert ("npdp: error: all ranks have died" in outcome.stderr) == (code == 1)


def test_a_death_that_was_survived_is_not_told_as_the_end_of_a_job_that_fails_later():
    outcome = python(*LAUNCHED, "--inject", "kill@rank=2,iteration=3", "--inject", "raise@rank=1,iteration=9")
    assert (outcome.code, outcome.stderr.count("Traceback")) == (1, 1)
    assert "ended first" not in outcome.stderr
