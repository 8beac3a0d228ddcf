"""`npdp chaos`: runs a training undisturbed, then many times with faults, and tells which promises were broken."""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npdp.app import config as train_config
from npdp.app import launch
from npdp.app.chaos import promises, runs
from npdp.app.chaos.draws import draw, is_harmless
from npdp.app.chaos.ground import Ground, ground_of
from npdp.app.config import TrainConfig
from npdp.app.flag_parser import POSITIVE_INT, Parser, flag_of, number
from npdp.base.errors import InputError
from npdp.elastic.inject import Fault
from npdp.report import table
from npdp.report.table import Column

EXAMPLES = """
examples:
  npdp chaos --runs 20 --ranks 4 --epochs 3                 faults end a run at once, with one clear message
  npdp chaos --ranks 4 --epochs 3 --checkpoint x --checkpoint-every 5      and what was lost is made good by --resume
  npdp chaos --transport threads --ranks 3 --epochs 2       quickly, without MPI
  npdp chaos --kinds kill --run 17 --ranks 4 --epochs 3     run 17 alone
  npdp chaos --mpirun="--with-ft ulfm" --ranks 4 --epochs 3      ranks of a bare mpirun with these flags
"""
OURS = ("inject", "metrics", "save", "record_arrivals", "replay_arrivals", "resume", "estimate")
LIMIT_S, LIMIT_TIMES = 60.0, 10  # of a run: so long, and so often the undisturbed one's time
SECONDS = number(float, lambda value: value > 0, "a number of seconds above 0")
COLUMNS = (
    Column("faults", "faults", 24, side="<"), Column("runs", "runs", 5), Column("broken", "broken", 6),
    Column("ended_s", "ended after", 12, ".2f"), Column("latest_s", "at most", 9, ".2f"),
    Column("recovered_s", "recovered in", 13, ".3f"), Column("slowest_s", "at most", 9, ".3f"),
)  # fmt: skip


@dataclass(frozen=True)
class Chaos:
    """What `npdp chaos` was told.

    Attributes:
        flags: of the training, as they were typed.
        training: the same, read.
    """

    runs: int
    seed: int
    run: int | None
    kinds: tuple[str, ...] | None
    soon_s: float
    mpirun: str | None
    json: bool
    folder: str | None
    flags: tuple[str, ...]
    training: TrainConfig


@dataclass
class Verdict:
    """What became of one run."""

    run: int
    faults: tuple[Fault, ...]
    outcome: runs.Outcome
    broken: list[str]

    @property
    def ended_after_s(self) -> float | None:
        """Time from the first fault that came to the end of the last process."""
        came = [when for when, _ in self.outcome.came]
        return self.outcome.ended_s - min(came) if came else None

    def as_dict(self) -> dict[str, Any]:
        return {"run": self.run, "inject": [str(fault) for fault in self.faults], "code": self.outcome.code,
                "came": [str(fault) for _, fault in self.outcome.came], "ended_after_s": self.ended_after_s,
                "recovered_s": self.outcome.recovered_s, "took_s": self.outcome.took_s,
                "broken": self.broken}  # fmt: skip


def parse(arguments: Sequence[str]) -> Chaos:
    """Return the flags, and those of the training that is to be run; InputError says what is wrong with them."""
    parser = Parser(
        prog="npdp chaos", epilog=EXAMPLES, allow_abbrev=False, usage="npdp chaos [flags] [flags of npdp train]",
        description="Run a training undisturbed, then with faults drawn from a seed (see --inject of npdp train), each "
        "time in a directory of its own. Each run must end in time, leave nothing behind, and either have the right "
        "result or say in one message what happened; exit code 1 where one did not.",
    )  # fmt: skip
    parser.add_argument("--runs", type=POSITIVE_INT, default=20, metavar="N", help="how many runs with faults (20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the faults (0); after --, of the training")
    parser.add_argument("--run", type=int, metavar="K", help="the run of this number alone")
    parser.add_argument("--kinds", type=lambda text: tuple(text.split(",")), metavar="KIND,KIND",
                        help="faults to draw (all that the flags make possible)")
    parser.add_argument("--soon-s", type=SECONDS, default=2.0, metavar="S",
                        help="seconds within which all ranks must have ended after a fault that is not survived (2)")
    parser.add_argument("--mpirun", metavar="FLAGS", help="start ranks by a bare mpirun with these flags")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each run, instead of words")
    parser.add_argument("--folder", metavar="DIR", help="where the directories of broken runs stay (a temporary one)")
    flags, rest = parser.parse_known_args(arguments)
    given = [word for word in rest if word != "--"]
    if "--dtype" not in given:
        given += ["--dtype", "float64"]  # whose results can be compared
    training = train_config.parse(given)
    for name in OURS:
        if getattr(training, name):
            raise InputError(f"npdp chaos: {flag_of(name)} is its own: leave it out")
    return Chaos(**vars(flags), flags=tuple(given), training=training)


def chaos(arguments: Sequence[str], say: Callable[[str], object]) -> int:
    """Make the runs; return the exit code."""
    flags = parse(arguments)
    base = Path(tempfile.mkdtemp(prefix="npdp-chaos-", dir=flags.folder))
    wrong = 0
    try:
        verdicts = []
        for verdict in _verdicts(flags, base):
            verdicts.append(verdict)
            wrong += bool(verdict.broken)
            for line in _lines(flags, verdict):
                say(line)
        if not flags.json:
            say("\n".join(_table(verdicts)))
            say(f"{len(verdicts)} runs, {wrong} with a broken promise" + f"; their files: {base}" * bool(wrong))
    finally:
        if not wrong:
            shutil.rmtree(base)
    return 1 if wrong else 0


def _verdicts(flags: Chaos, base: Path) -> Iterator[Verdict]:
    """Make the undisturbed run, then those with faults; a directory stays where a promise was broken."""
    undisturbed = _run(flags, base / "undisturbed", ())
    if undisturbed.code != 0 or undisturbed.end is None:
        raise InputError(f"npdp chaos: undisturbed it ended with code {undisturbed.code}: {_last_line(undisturbed)}")
    ground = ground_of(flags.training, undisturbed.end["iterations"], flags.kinds)
    for run in range(1, flags.runs + 1) if flags.run is None else [flags.run]:
        verdict = _verdict(flags, ground, undisturbed, base, run)
        yield verdict
        if not verdict.broken:
            shutil.rmtree(verdict.outcome.folder)


def _verdict(flags: Chaos, ground: Ground, undisturbed: runs.Outcome, base: Path, run: int) -> Verdict:
    faults, folder = draw(ground, flags.seed, run), base / str(run)
    limit_s = LIMIT_S + LIMIT_TIMES * undisturbed.took_s
    outcome = _run(flags, folder, faults, limit_s)
    wrong = [*promises.broken(faults, ground, outcome, undisturbed, flags.soon_s)]
    if ground.checkpoints and outcome.code is not None:
        (folder / "resumed").mkdir()
        shutil.copytree(folder / "checkpoint", folder / "resumed" / "checkpoint")
        wrong += promises.resumed(_run(flags, folder / "resumed", (), limit_s, "--resume"), undisturbed)
    return Verdict(run, faults, outcome, wrong)


def _run(
    flags: Chaos, folder: Path, faults: Sequence[Fault], limit_s: float = 3600.0, *more: str
) -> runs.Outcome:
    """Run the training with faults, its files in this directory."""
    training = [*flags.flags, "--quiet", "--metrics", f"{folder}/run.jsonl", "--save", f"{folder}/model.npz", *more]
    if flags.training.checkpoint is not None:
        training += ["--checkpoint", f"{folder}/checkpoint"]
    training += [word for fault in faults for word in ("--inject", str(fault))]
    if flags.mpirun is None:
        return runs.run([sys.executable, "-m", "npdp", "train", *training], folder, limit_s, {})
    ranks = flags.training.ranks or 1
    first = [launch.find_mpirun(), *shlex.split(flags.mpirun), "-n", str(ranks)]
    command = [*first, sys.executable, "-m", "npdp.train", *training]
    return runs.run(command, folder, limit_s, launch.settings(ranks))


def _lines(flags: Chaos, verdict: Verdict) -> Iterator[str]:
    """Yield what is said of a run."""
    if flags.json:
        yield json.dumps(verdict.as_dict())
        return
    after_s = verdict.ended_after_s
    when = "" if after_s is None else f", {after_s:.2f} s after it came"
    injected = " ".join(map(str, verdict.faults))
    yield f"run {verdict.run:>3}  {injected:<60} code {verdict.outcome.code}{when}{'  BROKEN' * bool(verdict.broken)}"
    yield from (f"         {wrong}" for wrong in verdict.broken)
    if verdict.broken:
        yield f"         again: {_again(flags, verdict.run)}    its files: {verdict.outcome.folder}"


def _again(flags: Chaos, run: int) -> str:
    """Return the command that repeats a run alone."""
    ours = ["--seed", str(flags.seed), "--run", str(run), "--soon-s", f"{flags.soon_s:g}"]
    ours += ["--kinds", ",".join(flags.kinds)] if flags.kinds else []
    ours += [f"--mpirun={flags.mpirun}"] if flags.mpirun is not None else []
    return shlex.join(["npdp", "chaos", *ours, "--", *flags.flags])


def _table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield the lines of a table with a row for each kind of run."""
    yield table.header(COLUMNS)
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        kinds = sorted(fault.kind for fault in verdict.faults if not is_harmless(fault))
        groups.setdefault(" ".join(kinds), []).append(verdict)
    for faults, group in sorted(groups.items()):
        ended = [verdict.ended_after_s for verdict in group if verdict.ended_after_s is not None]
        recovered = [seconds for verdict in group for seconds in verdict.outcome.recovered_s]
        yield table.line(COLUMNS, {
            "faults": faults, "runs": len(group), "broken": sum(bool(verdict.broken) for verdict in group),
            **_middle_and_most("ended_s", "latest_s", ended),
            **_middle_and_most("recovered_s", "slowest_s", recovered),
        })  # fmt: skip


def _middle_and_most(middle: str, most: str, values: Sequence[float]) -> dict[str, float]:
    return {middle: statistics.median(values), most: max(values)} if values else {}


def _last_line(outcome: runs.Outcome) -> str:
    return next(iter(reversed(outcome.stderr.strip().splitlines())), "without a word")
