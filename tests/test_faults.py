"""Faults on purpose come where `--inject` says, and nowhere else; in worlds of threads, where no process has to end."""

import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from launching import refusal
from training import fit
from worlds import run

import npdp
from npdp import nn
from npdp.app import train
from npdp.base.place import Place
from npdp.comm.errors import CommunicationError
from npdp.data.sampler import shard
from npdp.elastic import checkpoint, faults
from npdp.elastic.faults import DOES, FaultyPlace, InjectedError, parameter_of
from npdp.elastic.inject import KINDS, Fault, parse

PARTS = ("data", "forward", "backward", "exchange", "update")
FLAGS = ("--quiet", "--epochs", "2", "--global-batch-size", "64", "--dtype", "float64")  # 23 iterations an epoch


def fit_with(*specs, ranks=3, flags=()):
    return fit(*FLAGS, *flags, *(word for spec in specs for word in ("--inject", spec)), ranks=ranks)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("iteration", [1, 2, 30])
def test_a_rank_raises_where_it_is_told_to(part, iteration):
    with pytest.raises(InjectedError) as caught:
        fit_with(f"raise@rank=1,iteration={iteration},part={part}")
    assert caught.value.npdp_rank == 1


def test_a_fault_comes_once_as_its_part_of_its_iteration_begins_or_of_a_later_one():
    came = []
    specs = ["kill@iteration=2,part=forward", "stop@iteration=2,part=checkpoint", "kill@iteration=4,part=data"]
    plain = Place()
    place = FaultyPlace(plain, list(map(parse, specs)), lambda fault: came.append((place.iteration, str(fault))))
    for iteration in range(6):
        place.iteration = iteration
        for part in PARTS if iteration != 3 else ("update",):
            place.part = part
            assert (place.part, place.iteration) == (plain.part, plain.iteration) == (part, iteration)
        if iteration == 2:
            place.enter("checkpoint", iteration + 1)  # of a thread beside the program
    assert came == [(1, specs[0]), (2, specs[1]), (4, specs[2])] and place.due == []


@pytest.mark.parametrize(("kind", "number"), [("kill", signal.SIGKILL), ("stop", signal.SIGSTOP)])
def test_what_befalls_a_process_is_the_signal_itself(kind, number, monkeypatch):
    sent = []
    monkeypatch.setattr(faults, "os", SimpleNamespace(kill=lambda *to: sent.append(to), getpid=lambda: 7))
    DOES[kind](Fault(kind), None)
    assert sent == [(7, number)]


def test_every_kind_has_something_that_does_it():
    assert {*DOES, "slow", "delay", "diskfull"} == {*KINDS}


@pytest.mark.parametrize("strategy", ["allreduce", "naive", "ps", "local-sgd"])
def test_a_nan_is_in_one_ranks_own_gradient_of_one_backward_and_reaches_all_by_the_sum(strategy):
    run = fit_with("nan@rank=1,iteration=46,parameter=bias", flags=("--strategy", strategy), ranks=4)
    plain = fit_with(flags=("--strategy", strategy), ranks=4)
    wrong = np.isnan(run.arrays["parameter/bias"])
    assert wrong.sum() == 1 and wrong[0]
    assert np.array_equal(run.arrays["parameter/weight"], plain.arrays["parameter/weight"])


def test_a_nan_in_a_parameter_that_there_is_not_is_refused_with_those_that_there_are(capsys):
    inject = ("--inject", "nan@rank=1,parameter=wait", "--transport", "threads", "--ranks", "2")
    assert "wanted a parameter of weight, bias, got 'wait'" in refusal(capsys, train.main, *FLAGS, *inject)


def test_only_what_is_trained_can_be_spoilt():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad = False
    assert parameter_of(Fault("nan"), model) is model[0].bias
    assert parameter_of(Fault("nan", parameter="1.bias"), model) is model[1].bias
    with pytest.raises(npdp.InputError, match="got '0.weight'"):
        parameter_of(Fault("nan", parameter="0.weight"), model)


@pytest.mark.parametrize("part", ["data", "backward", "update"])
@pytest.mark.parametrize("flags", [(), ("--algorithm", "ring"), ("--strategy", "naive"), ("--strategy", "local-sgd")])
def test_a_rank_that_calls_another_collective_is_named(part, flags):
    with pytest.raises(CommunicationError, match="rank 2"):
        fit_with(f"mismatch@rank=2,iteration=20,part={part}", flags=flags)


def test_on_a_full_disk_the_last_checkpoints_stay_whole_and_training_goes_on(tmp_path, capsys):
    kept, flags = tmp_path / "kept", ("--checkpoint-every", "5", "--keep", "9")
    model = tmp_path / "model.npz"
    code = train.main([*FLAGS, *flags, "--checkpoint", str(kept), "--inject", "diskfull@iteration=12", "--save",
                       str(model), "--metrics", f"{tmp_path}/run.jsonl"])  # fmt: skip
    said = capsys.readouterr().err
    assert code == 1 and not model.exists() and f"{model} could not be written: No space left on device" in said
    assert sorted(path.name for path in kept.iterdir()) == ["000005.npz", "000010.npz"]
    assert checkpoint.read(str(kept / "000010.npz"))["iteration"] == 10
    assert said.count("was not written: No space left on device; training goes on") == 8  # 15, 20, ... 45, and 46
    end = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[-1])
    assert end["parameters_sha256"] == fit_with(ranks=1).end["parameters_sha256"]


def test_what_did_not_come_is_said_once(capsys):
    fit_with("raise@iteration=47", "raise@rank=1,part=recovery")
    notes = capsys.readouterr().err.splitlines()
    assert sorted(notes) == [f"npdp: note: --inject: {spec}: training ended before"
                             for spec in ("raise@iteration=47", "raise@rank=1,part=recovery")]  # fmt: skip


def test_a_nan_comes_in_one_backward_alone():
    model, rows = nn.Linear(2, 1), np.ones((3, 2))
    DOES["nan"](Fault("nan", parameter="bias"), SimpleNamespace(model=model))
    for wanted in ([True], [False]):
        model(rows).mean().backward()
        assert np.isnan(model.bias.grad).tolist() == wanted and not np.isnan(model.weight.grad).any()
        model.zero_grad()


def test_a_rank_goes_by_its_number_at_the_start_whoever_has_died_since():
    def program():
        shard().begun = (npdp.rank() + 1, 4)  # rank 0 of four is dead
        faults.Faults([parse("kill@rank=2")], npdp.init())
        return type(npdp.init().place).__name__

    assert run(3, program) == ["Place", "FaultyPlace", "Place"]


def test_without_faults_the_place_is_a_plain_one():
    def program():
        faults.Faults([parse("kill@rank=1")], npdp.init())
        return type(npdp.init().place).__name__

    assert run(3, program) == ["Place", "FaultyPlace", "Place"]
