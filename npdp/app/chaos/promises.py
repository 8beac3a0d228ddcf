"""The promises of a run with faults, by the undisturbed one.

    every run      it ends in time; no process, no shared memory and no temporary file is left
    survived       exit code 0; each sample once; the parameters of the undisturbed run
    not survived   another exit code, soon after the fault; one message that names the rank and the part
    resumed        what goes on from its checkpoint ends as the undisturbed run, to the same bits
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from npdp.app.chaos.draws import is_harmless
from npdp.app.chaos.ground import Ground
from npdp.app.chaos.runs import Outcome
from npdp.app.not_finite import KEPT
from npdp.elastic import checkpoint
from npdp.elastic.inject import Fault

MOST_OFF = 1e-10  # relative norm, in float64
EXACT = ("samples_seen", "samples_checksum", "iterations")  # of the end event, as far as it has them
NO_SPACE = "No space left on device"
IN_A_PART, IN_GRADIENTS = r"\b\w+ of iteration \d+", r"\biteration \d+: the gradient"
SAYS_ITSELF = ("raise", "mismatch", "nan")  # exceptions, after which the exit code is 1


def broken(
    faults: Sequence[Fault], ground: Ground, outcome: Outcome, undisturbed: Outcome, soon_s: float
) -> Iterator[str]:
    """Yield what of the promises does not hold for a run with these faults.

    Args:
        soon_s: within which all ranks are to have ended after a fault that is not survived.
    """
    if outcome.code is None:
        yield f"did not end within {outcome.took_s:.0f} s"
    yield from (f"left behind: {what}" for what in outcome.left)
    fatal = [(when, fault) for when, fault in outcome.came if fault.kind not in ground.survived]
    if outcome.code is None:
        return
    if any(fault.kind == "diskfull" for fault in faults):
        yield from _without_room(outcome, undisturbed)
    elif fatal:
        when, fault = fatal[0]
        yield from _ended(when + ground.stall_abort_s * (fault.kind == "stop"), fault, outcome, soon_s)
    else:
        same_bits = all(is_harmless(fault) for fault in faults) or not outcome.came
        yield from as_undisturbed(outcome, undisturbed, same_bits)


def _ended(when: float, fault: Fault, outcome: Outcome, soon_s: float) -> Iterator[str]:
    """Yield what is wrong with the end of a run that could not be survived, and that it could see when this came."""
    if outcome.code == 0 or (fault.kind in SAYS_ITSELF and outcome.code != 1):
        yield f"ended with code {outcome.code}, wanted {1 if fault.kind in SAYS_ITSELF else 'another than 0'}"
    if (took_s := outcome.ended_s - when) > soon_s:
        yield f"ended {took_s:.1f} s after it could be seen, wanted {soon_s:g}: {fault}"
    if outcome.stderr.count("Traceback (most recent call last)") > 1:
        yield "more than one traceback"
    if not re.search(rf"\brank {fault.rank}\b", outcome.stderr):
        yield f"no message names rank {fault.rank}"
    if not re.search(IN_GRADIENTS if fault.kind == "nan" else IN_A_PART, outcome.stderr):
        yield "no message names the part and the iteration"


def _without_room(outcome: Outcome, undisturbed: Outcome) -> Iterator[str]:
    """Yield what is wrong with a run that could not write its files: it has trained, and says so."""
    if outcome.code != 1 or NO_SPACE not in outcome.stderr:
        yield f"ended with code {outcome.code}, wanted 1 and {NO_SPACE!r}"
    if (outcome.folder / "model.npz").exists():
        yield "there is a model, though the disk was full"
    yield from _same_figures(outcome, undisturbed, True)


def as_undisturbed(outcome: Outcome, undisturbed: Outcome, same_bits: bool, whole: bool = True) -> Iterator[str]:
    """Yield in what a run that ends well differs from the undisturbed one.

    Args:
        same_bits: its parameters are to be the same to the last bit.
        whole: it has used all samples, and not only those after a checkpoint.
    """
    if outcome.code != 0:
        yield f"ended with code {outcome.code}, wanted 0"
        return
    yield from _same_figures(outcome, undisturbed, same_bits, EXACT if whole else ("iterations",))
    if not same_bits and (off := _distance(outcome, undisturbed)) > MOST_OFF:
        yield f"its parameters are off by {off:.1e}, wanted {MOST_OFF:g}"


def _same_figures(
    outcome: Outcome, undisturbed: Outcome, same_bits: bool, names: Sequence[str] = EXACT
) -> Iterator[str]:
    if outcome.end is None or undisturbed.end is None:
        yield "has no end event"
        return
    for name in (*names, *(["parameters_sha256"] * same_bits)):
        if (got := outcome.end.get(name)) != (wanted := undisturbed.end.get(name)):
            yield f"{name} is {got}, undisturbed {wanted}"


def _distance(outcome: Outcome, undisturbed: Outcome) -> float:
    """Return the relative distance of the parameters from the undisturbed run's."""
    mine, wanted = (_parameters(run) for run in (outcome, undisturbed))
    return float(np.linalg.norm(mine - wanted) / np.linalg.norm(wanted))


def _parameters(outcome: Outcome) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    with np.load(outcome.folder / "model.npz") as file:
        return np.concatenate([np.ravel(file[name]) for name in sorted(file.files) if name.startswith("parameter/")])


def resumed(outcome: Outcome, undisturbed: Outcome) -> Iterator[str]:
    """Yield what is wrong with a run that went on from the checkpoint of another."""
    yield from (f"resumed: left behind: {what}" for what in outcome.left)
    yield from (f"resumed: {wrong}" for wrong in as_undisturbed(outcome, undisturbed, True, whole=False))
    names = [path.name for path in (outcome.folder / "checkpoint").iterdir()]
    left = (name for name in names if not (checkpoint.NAME.fullmatch(name) or name.startswith(KEPT)))
    yield from (f"resumed: {name} is left" for name in left)
