"""Faults on purpose: what `--inject` accepts, what it refuses, and that a slow rank is as slow as it says."""

import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from training import fit

from npdp.app import config, train
from npdp.base.errors import InputError
from npdp.elastic import faults
from npdp.elastic.faults import Pace
from npdp.elastic.inject import KINDS, PARTS, Fault, parse

BAD = {
    "": f"wanted kind@key=value,... with a kind of {', '.join(KINDS)}, got ''",
    "slow": "wanted kind@key=value",
    "@": "wanted kind@key=value",
    "quick@rank=1": "diskfull, got 'quick@rank=1'",
    "Slow@rank=1,factor=2": "with a kind of",
    " slow@rank=1,factor=2": "with a kind of",
    "slow@": "wanted rank, factor, each once as key=value, got ''",
    "slow@rank=1": "factor missing in 'slow@rank=1'",
    "slow@factor=2": "rank missing",
    "slow@rank=1,factor": "got 'factor'",
    "slow@rank=1,factor=2,": "got ''",
    "slow@rank=1,,factor=2": "got ''",
    "slow@rank=1,factor=2,factor=3": "each once as key=value, got 'factor=3'",
    "slow@rank=1,rank=2,factor=2": "got 'rank=2'",
    "slow@rank=1,factor=2,ms=3": "got 'ms=3'",
    "slow@rank=-1,factor=2": "wanted a rank, a whole number, got '-1'",
    "slow@rank=1.5,factor=2": "got '1.5'",
    "slow@rank=,factor=2": "got ''",
    "slow@rank=all,factor=2": "got 'all'",
    "slow@rank=1,factor=0.5": "wanted a number from 1 to 1e6 for factor, got '0.5'",
    "slow@rank=1,factor=-2": "got '-2'",
    "slow@rank=1,factor=nan": "got 'nan'",
    "slow@rank=1,factor=inf": "got 'inf'",
    "slow@rank=1,factor=four": "got 'four'",
    "slow@rank=1,factor=": "got ''",
    "delay@": "wanted ms, rank",
    "delay@rank=1": "ms missing",
    "delay@ms=-1": "wanted a number from 0 to 1e6 for ms, got '-1'",
    "delay@ms=nan": "got 'nan'",
    "delay@ms=1,factor=2": "got 'factor=2'",
    "kill@rank=1,iteration=0": "wanted an iteration, a whole number from 1, got '0'",
    "kill@rank=1,part=lunch": "forward, backward, exchange, update, checkpoint, recovery, got 'lunch'",
    "raise@ms=3": "wanted rank, iteration, part, each once as key=value, got 'ms=3'",
    "nan@parameter=": "wanted a parameter's name, got ''",
    "nan@part=data": "got 'part=data'",
    "mismatch@iteration=3": "rank missing",
    "diskfull@part=checkpoint": "wanted rank, iteration, each once",
    "exit@code=256": "wanted a code from 0 to 255, got '256'",
}


@pytest.mark.parametrize("spec", BAD)
def test_what_cannot_be_meant_is_refused_with_wanted_and_got(spec):
    with pytest.raises(InputError) as caught:
        parse(spec)
    assert str(caught.value).startswith("--inject") and BAD[spec] in str(caught.value)


@pytest.mark.parametrize("spec", ["oops", "slow@rank=1", "slow@rank=1,factor=0.5"])
def test_the_flag_says_what_is_wrong_in_the_same_words(spec):
    with pytest.raises(InputError) as caught:
        config.parse(["--inject", spec])
    assert BAD.get(spec, "wanted kind@key=value") in str(caught.value)


@given(st.text())
def test_any_text_is_a_fault_or_is_refused(text):
    try:
        assert isinstance(parse(text), Fault)
    except InputError as error:
        assert "\n" not in str(error)


@given(st.integers(0, 99), st.floats(1, 1e6), st.floats(0, 1e6))
def test_a_fault_is_what_its_text_says_in_any_order(rank, factor, ms):
    assert parse(f"slow@rank={rank},factor={factor!r}") == parse(f"slow@factor={factor!r},rank={rank}")
    assert parse(f"slow@rank={rank},factor={factor!r}") == Fault("slow", rank, factor=factor)
    assert parse(f"delay@ms={ms!r}") == Fault("delay", ms=ms)
    assert parse(f"delay@ms={ms!r},rank={rank}") == Fault("delay", rank, ms=ms)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["delay@ms={}", "slow@rank=0,factor={}"]))
@example(1e300, "delay@ms={}")
@example(1e300, "slow@rank=0,factor={}")
def test_whatever_is_accepted_can_be_slept(value, spec):
    """A system sleeps for some hundred years at most: more is to be refused, and not an OverflowError later."""
    try:
        fault = parse(spec.format(repr(value)))
    except InputError:
        return
    assert slept([fault], 0, took_s=1.0) <= threading.TIMEOUT_MAX


@given(st.integers(0, 99), st.integers(1, 10**9), st.sampled_from(PARTS), st.sampled_from(["kill", "raise", "stop"]))
def test_a_fault_has_a_place_and_befalls_all_at_the_first_backward_where_none_is_named(rank, iteration, part, kind):
    fault = parse(f"{kind}@part={part},iteration={iteration},rank={rank}")
    assert fault == Fault(kind, rank, iteration, part)
    assert parse(f"{kind}@") == Fault(kind, None, 1, "backward")


@pytest.mark.parametrize("kind", ["kill", "segv", "stop", "exit"])
def test_in_a_world_of_threads_what_befalls_a_process_is_refused_with_the_reason(kind):
    with pytest.raises(InputError, match=f"--inject {kind}: it befalls a process, and .* all ranks are one"):
        config.parse(["--transport", "threads", "--ranks", "2", "--inject", f"{kind}@rank=0"])


def slept(given_faults, rank, took_s):
    """Return for how long a rank would be held after an iteration that took so long."""
    asked = []
    clock = type("clock", (), {"perf_counter": staticmethod(lambda: took_s), "sleep": staticmethod(asked.append)})
    before, faults.time = faults.time, clock
    try:
        Pace(given_faults, rank).hold(0.0)
    finally:
        faults.time = before
    return sum(asked)


@pytest.mark.parametrize(
    ("specs", "rank", "wanted_s"),
    [
        (["slow@rank=1,factor=4"], 1, 0.03),
        (["slow@rank=1,factor=4"], 0, 0),
        (["slow@rank=1,factor=1"], 1, 0),
        (["delay@ms=20"], 0, 0.02),
        (["delay@ms=20,rank=1"], 0, 0),
        (["delay@ms=20,rank=1"], 1, 0.02),
        (["delay@ms=20", "slow@rank=1,factor=4"], 1, 0.11),
        (["slow@rank=1,factor=4", "delay@ms=20"], 0, 0.02),
        (["slow@rank=1,factor=2", "slow@rank=1,factor=3"], 1, 0.05),
        (["delay@ms=5", "delay@ms=5,rank=2"], 2, 0.01),
        ([], 0, 0),
    ],
)
def test_an_iteration_of_10_ms_is_held_as_long_as_the_faults_say(specs, rank, wanted_s):
    assert slept([parse(spec) for spec in specs], rank, took_s=0.01) == pytest.approx(wanted_s)


@pytest.mark.parametrize("strategy", ["allreduce", "ps", "local-sgd"])
def test_a_delay_makes_every_iteration_longer_and_changes_no_bit(strategy):
    flags = ("--quiet", "--epochs", "1", "--strategy", strategy)
    delayed, plain = fit(*flags, "--inject", "delay@ms=3", ranks=3), fit(*flags, ranks=3)
    assert delayed.end["wall_s"] > 0.003 * delayed.end["iterations"]
    assert delayed.end["parameters_sha256"] == plain.end["parameters_sha256"]


# What a user would want to be told
@pytest.fixture
def accepted(capsys):
    def accepted(*flags, ranks):
        code = train.main([*flags, "--quiet", "--epochs", "0", "--transport", "threads", "--ranks", str(ranks)])
        assert (code, "--inject" in capsys.readouterr().err) in ((0, False), (2, True))
        return code == 0

    return accepted


@pytest.mark.parametrize("rank", [3, 9])
def test_a_rank_that_there_is_not_is_refused(rank, accepted):
    """It would be a fault that never comes, and a comparison that compares nothing."""
    assert accepted("--inject", f"slow@rank={rank - 1},factor=4", ranks=rank)
    assert not accepted("--inject", f"slow@rank={rank},factor=4", ranks=3)


def test_a_server_cannot_be_slow_at_iterations_that_it_does_not_make(accepted):
    assert accepted("--strategy", "ps", "--inject", "slow@rank=1,factor=4", ranks=3)
    assert not accepted("--strategy", "ps", "--inject", "slow@rank=2,factor=4", ranks=3)
