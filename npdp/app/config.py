"""The flags of `npdp.train`, and their checks before anything is loaded.

It imports neither NumPy nor MPI: flags are read first, so that BLAS threads can be set for a world of threads.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npdp.app.flag_parser import POSITIVE_INT, Parser, flag_of, number, number_of_ranks, require_one_launcher
from npdp.app.paths import data_files, require_apart, require_replaceable, require_unread, require_writable
from npdp.app.strategy_choices import STRATEGIES
from npdp.base.errors import InputError
from npdp.collectives.algorithms import ALGORITHMS
from npdp.elastic.inject import Fault
from npdp.elastic.inject import parse as parse_fault

WORDS = ("digits", "synthetic")  # what --data takes that is no path
UPDATES = ("auto", "replicated", "fused")
OPTIMIZERS = ("sgd", "adam", "adamw")
LR_SCHEDULES = ("constant", "step", "cosine")
STALENESS_LR = ("constant", "1/(1+s)")
HIDDEN = (512, 512)

EXAMPLES = """
examples:
  mpirun -n 4 python -m npdp.train                                four ranks, on the digits that ship with npdp
  python -m npdp.train --transport threads --ranks 4              the same in one process, without MPI
  npdp train --ranks 4 --data sales.csv --target price --standardize
  npdp train --ranks 2 --data fashion-mnist/ --model mlp --hidden 256 --epochs 15 --save model.npz
  npdp train --model my_model.py:make --metrics run.jsonl
  npdp train --ranks 4 --strategy ps --servers 1 --staleness inf --inject slow@rank=1,factor=4
"""

@dataclass(frozen=True)
class TrainConfig:
    """The flags of a training run, checked as far as is possible without the data."""

    data: str
    target: str | None
    test_fraction: float
    standardize: bool
    task: str
    sparse: bool
    model: str | None
    hidden: tuple[int, ...]
    epochs: int
    global_batch_size: int
    accumulate: int
    learning_rate: float
    lr_schedule: str
    warm_up_epochs: float
    optimizer: str
    momentum: float | None
    weight_decay: float
    clip_norm: float | None
    seed: int
    dtype: str
    strategy: str
    servers: int
    staleness: float
    staleness_lr: str
    record_arrivals: str | None
    replay_arrivals: str | None
    local_iterations: int
    outer_momentum: float
    outer_learning_rate: float
    inject: tuple[Fault, ...]
    algorithm: str
    update: str
    transport: str
    ranks: int | None
    metrics: str | None
    save: str | None
    quiet: bool


_COUNT = number(int, lambda value: value >= 0, "a whole number, at least 0")
SEED = number(int, lambda value: 0 <= value < 2**63, "a whole number in [0, 2^63)")
_NOT_NEGATIVE = number(float, lambda value: value >= 0, "a number, at least 0")
_POSITIVE = number(float, lambda value: value > 0, "a number above 0")
_STALENESS = number(int, lambda value: value >= 0, "0, 1, 2, ... or inf")
FRACTION = number(float, lambda value: 0 <= value < 1, "a number in [0, 1)")


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--inject").lstrip(": ")) from None


def _staleness(text: str) -> float:
    return math.inf if text == "inf" else float(_STALENESS(text))


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(POSITIVE_INT(width.strip()) for width in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"wanted whole numbers, at least 1, as 512,512, got {text!r}") from None


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `npdp.train`."""
    parser = Parser(
        prog="npdp train",
        description="Train a model with data-parallel SGD on every rank that was launched.",
        epilog=EXAMPLES,
        allow_abbrev=False,
    )
    for add in (_add_data, _add_model, _add_ranks, _add_server, _add_local_sgd, _add_results):
        add(parser)
    return parser


def _add_data(parser: Parser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="digits", metavar="WHAT",
                      help="digits (default), synthetic, or a path: IDX folder, .npz, x.npy (and y.npy), .csv, .svm")
    data.add_argument("--target", metavar="COLUMN", help="a .csv's target: a column's name, or number from 1 (last)")
    data.add_argument("--test-fraction", type=FRACTION, default=0.2, metavar="F",
                      help="held out where the data has no test part (0.2)")
    data.add_argument("--standardize", action="store_true",
                      help="scale features by the training part's mean and deviation")
    data.add_argument("--task", choices=("auto", "classification", "regression"), default="auto",
                      help="whether targets are classes or numbers (auto: few whole numbers from 0 are classes)")
    data.add_argument("--sparse", action="store_true",
                      help="read .svm as sparse data, however many features (.npz says itself what it is)")


def _add_model(parser: Parser) -> None:
    model = parser.add_argument_group("model and training")
    model.add_argument("--model", metavar="NAME",
                       help="softmax (default for classes), linear (for numbers), mlp, cnn (for square images), "
                            "sparse_linear (for sparse data), or file.py:function of your own")
    model.add_argument("--hidden", type=_widths, metavar="N,N", help="widths of an mlp (512,512)")
    model.add_argument("--epochs", type=_COUNT, default=20, metavar="N", help="passes over the data (20)")
    model.add_argument("--global-batch-size", type=POSITIVE_INT, default=64, metavar="N",
                       help="samples per update over all ranks (64)")
    model.add_argument("--accumulate", type=POSITIVE_INT, default=1, metavar="K",
                       help="work through each batch in K micro-batches, for less memory (1)")
    model.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="sgd (default), adam or adamw")
    model.add_argument("--learning-rate", type=_NOT_NEGATIVE, default=0.1, metavar="R", help="(0.1)")
    model.add_argument("--lr-schedule", choices=LR_SCHEDULES, default="cosine",
                       help="cosine (default): down to 0 over the run; step: a tenth every third of it; constant")
    model.add_argument("--warm-up-epochs", type=_NOT_NEGATIVE, default=0.0, metavar="N",
                       help="rise to the learning rate over so many epochs (0)")
    model.add_argument("--momentum", type=FRACTION, metavar="M", help="of sgd (0.9; with sparse data or parameters 0)")
    model.add_argument("--weight-decay", type=_NOT_NEGATIVE, default=0.0, metavar="D", help="(0)")
    model.add_argument("--clip-norm", type=_POSITIVE, default=None, metavar="N",
                       help="scale the gradient down to this norm (off)")
    model.add_argument("--seed", type=SEED, default=0, metavar="N", help="of weights, order, dropout and split (0)")
    model.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(float32)")


def _add_ranks(parser: Parser) -> None:
    ranks = parser.add_argument_group("ranks")
    said = "; ".join(f"{name}: {choice.help}" for name, choice in STRATEGIES.items())
    ranks.add_argument("--strategy", choices=STRATEGIES, default="allreduce", help=f"{said} (allreduce)")
    ranks.add_argument("--algorithm", choices=ALGORITHMS, default="auto", help="of the all-reduce (auto)")
    ranks.add_argument("--update", choices=UPDATES, default="auto",
                       help="replicated: every rank updates its own parameters; fused: in the pass that sums the "
                            "gradients, parameters once a host; auto (default): fused from 1 MB of parameters on "
                            "where ranks share memory")
    ranks.add_argument("--transport", choices=("mpi", "threads"), default="mpi",
                       help="mpi (default; one rank needs none), or threads of one process")
    ranks.add_argument("--ranks", type=number_of_ranks, default=None, metavar="N",
                       help="how many; under a bare mpirun, which says it itself, leave it out")
    ranks.add_argument("--inject", type=_fault, action="append", default=[], metavar="SPEC",
                       help="make something go wrong: slow@rank=1,factor=4 or delay@ms=20[,rank=1]; may be repeated")


def _add_server(parser: Parser) -> None:
    server = parser.add_argument_group("parameter server (--strategy ps)")
    server.add_argument("--servers", type=_COUNT, metavar="N",
                        help="the last N ranks are servers (1); 0: every rank is worker and server of a shard")
    server.add_argument("--staleness", type=_staleness, metavar="S",
                        help="0 (default): synchronous; 1, 2, ...: a worker may be S iterations ahead of the slowest; "
                             "inf: asynchronous")
    server.add_argument("--staleness-lr", choices=STALENESS_LR,
                        help="learning rate of a gradient of staleness s: constant (default), or divided by 1 + s")
    server.add_argument("--record-arrivals", metavar="FILE", help="write in which order gradients were applied")
    server.add_argument("--replay-arrivals", metavar="FILE", help="apply them in the order of a record: the same bits")


def _add_local_sgd(parser: Parser) -> None:
    local = parser.add_argument_group("local SGD (--strategy local-sgd)")
    local.add_argument("--local-iterations", type=POSITIVE_INT, metavar="H",
                       help="updates of a rank between two averagings (8)")
    local.add_argument("--outer-momentum", type=FRACTION, metavar="M", help="of the step to the average (0)")
    local.add_argument("--outer-learning-rate", type=_POSITIVE, metavar="R", help="of that step (1)")


def _add_results(parser: Parser) -> None:
    out = parser.add_argument_group("results")
    out.add_argument("--metrics", metavar="FILE", help="write one JSON object a line")
    out.add_argument("--save", metavar="FILE", help="write the trained model (.npz)")
    out.add_argument("--quiet", action="store_true", help="print nothing but errors")


def parse(arguments: Sequence[str] | None = None) -> TrainConfig:
    """Return the flags.

    Raises:
        InputError: what is wrong with them, in one line.
    """
    given = vars(make_parser().parse_args(arguments))
    config = TrainConfig(**_with_hidden(_with_strategy({**given, "inject": tuple(given["inject"])})))
    if config.metrics is not None:
        require_writable("--metrics", config.metrics)
    for flag, path in (("--save", config.save), ("--record-arrivals", config.record_arrivals)):
        if path is not None:
            require_replaceable(flag, path)
    names = ("metrics", "save", "record_arrivals", "replay_arrivals")
    require_apart(**{name: getattr(config, name) for name in names})
    _require_input_unwritten(config)
    _require_sense(config)
    if config.transport == "threads" and config.algorithm == "mpi":
        raise InputError("--algorithm mpi is MPI's own all-reduce; --transport threads has none")
    require_one_launcher(config.transport)
    return config


def _require_input_unwritten(config: TrainConfig) -> None:
    """Raise InputError where the data, or the file of the model, would be written over."""
    data = [] if config.data in WORDS else data_files(config.data)
    model, colon, _ = (config.model or "").rpartition(":")
    for flag, read in (("--data", data), ("--model", [model] if colon else [])):
        require_unread(flag, read, metrics=config.metrics, save=config.save, record_arrivals=config.record_arrivals)


def _with_strategy(given: dict[str, Any]) -> dict[str, Any]:
    """Return the flags with those of strategies filled in; one of another strategy is refused."""
    mine = STRATEGIES[given["strategy"]].flags
    for strategy, choice in STRATEGIES.items():
        for name, default in choice.flags.items():
            if given[name] is None:
                given[name] = default
            elif name not in mine:
                flag = flag_of(name)
                raise InputError(f"{flag} is for --strategy {strategy}, this is --strategy {given['strategy']}")
    return given


def _with_hidden(given: dict[str, Any]) -> dict[str, Any]:
    """Return the flags with the widths of an mlp filled in; for a model without hidden layers they are refused."""
    name = given["model"]
    if given["hidden"] is None:
        given["hidden"] = HIDDEN
    elif name != "mlp" and ":" not in (name or ""):
        raise InputError(f"--hidden is for --model mlp, {f'this is --model {name}' if name else 'no --model is given'}")
    return given


def _require_sense(config: TrainConfig) -> None:
    """Raise InputError where flags exclude each other."""
    if config.update == "fused" and config.clip_norm is not None:
        raise InputError("--update fused stores no gradient that --clip-norm could scale: use --update replicated")
    for name, neutral in (("update", "auto"), ("clip_norm", None)):
        why = STRATEGIES[config.strategy].excludes.get(name)
        if why is not None and getattr(config, name) != neutral:
            raise InputError(f"--strategy {config.strategy} {why}")
    for flag, path in (("--record-arrivals", config.record_arrivals), ("--replay-arrivals", config.replay_arrivals)):
        if path is not None and config.staleness == 0:
            raise InputError(f"{flag}: with --staleness 0 the order is always the same; it is for 1, 2, ... or inf")
