"""The flags of `npdp.train`, group by group, as its --help shows them."""

from __future__ import annotations

import argparse
import math

from npdp.app import algorithm_flag
from npdp.app.flag_parser import POSITIVE_INT, Parser, number, number_of_ranks
from npdp.app.interval import Interval, interval, seconds
from npdp.app.model_choices import MODELS, TRAINING
from npdp.app.strategy_choices import STRATEGIES
from npdp.base.errors import InputError
from npdp.base.text_files import TEXT_SUFFIXES
from npdp.collectives.algorithms import ALGORITHMS
from npdp.elastic.inject import KINDS, PARTS, Fault
from npdp.elastic.inject import parse as parse_fault

UPDATES = ("auto", "replicated", "fused")
OPTIMIZERS = ("sgd", "adam", "adamw")
LR_SCHEDULES = ("constant", "step", "cosine")
STALENESS_LR = ("constant", "1/(1+s)")
ON_NAN = ("raise", "skip")
POSITIONS = ("learned", "rotary")

EXAMPLES = """
examples:
  mpirun -n 4 python -m npdp.train                                four ranks, on the digits that ship with npdp
  python -m npdp.train --transport threads --ranks 4              the same in one process, without MPI
  npdp train --ranks 4 --data sales.csv --target price --standardize
  npdp train --ranks 2 --data fashion-mnist/ --model mlp --hidden 256 --epochs 15 --save model.npz
  npdp train --ranks 2 --data python-docs --save model.npz        a language model; then `npdp generate model.npz`
  npdp train --data book.txt --tokenizer bpe:4096 --context 128 --layers 6 --heads 6 --width 384
  npdp train --model my_model.py:make --metrics run.jsonl
  npdp train --ranks 4 --checkpoint run1 --checkpoint-every 10min --resume      the same line begins, and goes on
  npdp train --ranks 4 --elastic --spares 1       kill one: another takes its place; kill more: the others go on
  npdp train --ranks 4 --checkpoint run1 --resume --time-limit 55min --restarts 3     stops in time, restarts itself
  npdp train --ranks 4 --strategy ps --servers 1 --staleness inf --inject slow@rank=1,factor=4
  npdp train --ranks 4 --checkpoint run1 --checkpoint-every 10 --inject kill@rank=2,iteration=17,part=exchange
"""

COUNT = number(int, lambda value: value >= 0, "a whole number, at least 0")
SEED = number(int, lambda value: 0 <= value < 2**63, "a whole number in [0, 2^63)")
NOT_NEGATIVE = number(float, lambda value: value >= 0, "a number, at least 0")
_POSITIVE = number(float, lambda value: value > 0, "a number above 0")
_STALENESS = number(int, lambda value: value >= 0, "0, 1, 2, ... or inf")
FRACTION = number(float, lambda value: 0 <= value < 1, "a number in [0, 1)")


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--inject").lstrip(": ")) from None


def staleness_of(text: str) -> float:
    """Return a staleness, as an argparse type: 0, 1, 2, ... or inf."""
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
    for add in (_add_data, _add_text, _add_model, _add_training, _add_ranks, _add_server, _add_local_sgd,
                _add_faults, _add_checkpoints, _add_results):  # fmt: skip
        add(parser)
    return parser


def _add_data(parser: Parser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="digits", metavar="WHAT",
                      help="digits (default), synthetic, or a path: IDX folder, .npz, x.npy (and y.npy), .csv, .svm; "
                           f"of text python-docs, or a path: {', '.join(TEXT_SUFFIXES)}, a folder of these")
    data.add_argument("--target", metavar="COLUMN", help="a .csv's target: a column's name, or number from 1 (last)")
    data.add_argument("--test-fraction", type=FRACTION, metavar="F",
                      help="held out where the data has no test part (0.2; of text the end, 0.1)")
    data.add_argument("--standardize", action="store_true",
                      help="scale features by the training part's mean and deviation")
    data.add_argument("--task", choices=("auto", "classification", "regression"), default="auto",
                      help="whether targets are classes or numbers (auto: few whole numbers from 0 are classes)")
    data.add_argument("--sparse", action="store_true",
                      help="read .svm as sparse data, however many features (.npz says itself what it is)")


def _add_text(parser: Parser) -> None:
    text = parser.add_argument_group("text")
    text.add_argument("--tokenizer", metavar="NAME",
                      help="what cuts it into tokens: bytes (default), characters, or bpe:N (byte-level BPE)")
    text.add_argument("--context", type=POSITIVE_INT, metavar="N", help="tokens of a sample (64)")


def _add_model(parser: Parser) -> None:
    model = parser.add_argument_group("model")
    said = "; ".join(f"{name}: {choice.help}" for name, choice in MODELS.items())
    model.add_argument("--model", metavar="NAME", help=f"{said}; or file.py:function of your own (for classes softmax, "
                       "for numbers linear, for sparse data sparse_linear, for text gpt)")
    model.add_argument("--hidden", type=_widths, metavar="N,N", help="widths of an mlp (512,512)")
    model.add_argument("--layers", type=POSITIVE_INT, metavar="N", help="blocks of a gpt (4)")
    model.add_argument("--heads", type=POSITIVE_INT, metavar="N", help="heads of each block's attention (4)")
    model.add_argument("--width", type=POSITIVE_INT, metavar="N", help="numbers a token has between blocks (128)")
    model.add_argument("--dropout", type=FRACTION, metavar="P", help="part of a gpt's activations set to 0 (0)")
    model.add_argument("--positions", choices=POSITIONS, help="how a gpt knows the places of tokens (learned)")


def _add_training(parser: Parser) -> None:
    model = parser.add_argument_group("training")
    model.add_argument("--epochs", type=COUNT, metavar="N", help=f"passes over the data {_default('epochs')}")
    model.add_argument("--global-batch-size", type=POSITIVE_INT, metavar="N",
                       help=f"samples per update over all ranks {_default('global_batch_size')}")
    model.add_argument("--accumulate", type=POSITIVE_INT, default=1, metavar="K",
                       help="work through each batch in K micro-batches, for less memory (1)")
    model.add_argument("--optimizer", choices=OPTIMIZERS, help=f"sgd, adam or adamw {_default('optimizer')}")
    model.add_argument("--learning-rate", type=NOT_NEGATIVE, metavar="R", help=_default("learning_rate"))
    model.add_argument("--lr-schedule", choices=LR_SCHEDULES, default="cosine",
                       help="cosine (default): down over the run; step: a tenth every third of it; constant")
    model.add_argument("--lowest-learning-rate", type=NOT_NEGATIVE, metavar="R",
                       help=f"where a cosine ends {_default('lowest_learning_rate')}")
    model.add_argument("--warm-up-epochs", type=NOT_NEGATIVE, metavar="N",
                       help=f"rise to the learning rate over so many epochs {_default('warm_up_epochs')}")
    model.add_argument("--momentum", type=FRACTION, metavar="M", help="of sgd (0.9; with sparse data or parameters 0)")
    model.add_argument("--weight-decay", type=NOT_NEGATIVE, metavar="D", help=_default("weight_decay"))
    model.add_argument("--clip-norm", type=_POSITIVE, metavar="N",
                       help=f"scale the gradient down to this norm {_default('clip_norm')}; "
                            "with --update fused and --strategy ps none is")
    model.add_argument("--on-nan", choices=ON_NAN, default="raise",
                       help="of gradients with NaN or infinity in them. raise (default): end, saying rank, parameter "
                            "and samples, and keep the batch; skip: leave the update out on all ranks")
    model.add_argument("--evaluate-every", type=POSITIVE_INT, metavar="N",
                       help="score the held-out part every N iterations; --save keeps the best parameters (off)")
    model.add_argument("--sample-every", type=POSITIVE_INT, metavar="N",
                       help="print a text of the model's every N iterations (off)")
    model.add_argument("--seed", type=SEED, default=0, metavar="N", help="of weights, order, dropout and split (0)")
    model.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(float32)")


def _default(flag: str) -> str:
    """Return what a flag of training is where not given, as --help says it."""
    others = [f"; of {name} {choice.training[flag]:g}" if isinstance(choice.training[flag], float)
              else f"; of {name} {choice.training[flag]}" for name, choice in MODELS.items() if flag in choice.training]
    value = TRAINING[flag]
    return f"({'off' if value is None else f'{value:g}' if isinstance(value, float) else value}{''.join(others)})"


def _add_ranks(parser: Parser) -> None:
    ranks = parser.add_argument_group("ranks")
    said = "; ".join(f"{name}: {choice.help}" for name, choice in STRATEGIES.items())
    ranks.add_argument("--strategy", choices=STRATEGIES, default="allreduce", help=f"{said} (allreduce)")
    ranks.add_argument(algorithm_flag.FLAG, type=algorithm_flag.algorithm_name, default="auto",
                       metavar="{" + ",".join(ALGORITHMS) + ",FILE.py:FUNCTION}", help=algorithm_flag.HELP)
    ranks.add_argument("--update", choices=UPDATES, default="auto",
                       help="replicated: every rank updates its own parameters; fused: in the pass that sums the "
                            "gradients, parameters once a host; auto (default): fused from 1 MB of parameters on "
                            "where ranks share memory")
    ranks.add_argument("--transport", choices=("mpi", "threads"), default="mpi",
                       help="mpi (default; one rank needs none), or threads of one process")
    ranks.add_argument("--ranks", type=number_of_ranks, default=None, metavar="N",
                       help="how many; under a bare mpirun, which says it itself, leave it out")


def _add_server(parser: Parser) -> None:
    server = parser.add_argument_group("parameter server (--strategy ps)")
    server.add_argument("--servers", type=COUNT, metavar="N",
                        help="the last N ranks are servers (1); 0: every rank is worker and server of a shard")
    server.add_argument("--staleness", type=staleness_of, metavar="S",
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


def _add_faults(parser: Parser) -> None:
    faults = parser.add_argument_group("when something goes wrong")
    faults.add_argument("--elastic", action="store_true",
                        help="train on where ranks are killed: the others do their part, down to one (Open MPI; "
                             "under a bare mpirun with --with-ft ulfm); for --strategy allreduce with replicated "
                             "parameters, and ps, whose servers keep replicas")
    faults.add_argument("--spares", type=COUNT, default=0, metavar="K",
                        help="with --elastic: start K more ranks, which take the places of those that die (0)")
    faults.add_argument("--fence-stalled", action="store_true",
                        help="with --elastic: after --stall-abort-s kill the late rank, and train on without it")
    faults.add_argument("--stall-warning-s", type=NOT_NEGATIVE, default=10.0, metavar="S",
                        help="say which rank is late, and where, when others have waited so long (10; 0: never)")
    faults.add_argument("--stall-abort-s", type=NOT_NEGATIVE, default=600.0, metavar="S",
                        help="end the job when they have waited so long (600; 0: never)")
    faults.add_argument("--inject", type=_fault, action="append", default=[], metavar="SPEC",
                        help="make something go wrong, as kill@rank=2,iteration=17,part=exchange: "
                             + "; ".join(f"{name}@: {kind.help}" for name, kind in KINDS.items())
                             + ". rank: its number at the start (all); iteration: from 1 (1); part: "
                             f"{', '.join(PARTS)} (backward); ms: so many milliseconds later (0). May be repeated")


def _add_checkpoints(parser: Parser) -> None:
    kept = parser.add_argument_group("checkpoints and stops (Ctrl-C and SIGTERM stop with a checkpoint too)")
    kept.add_argument("--checkpoint", metavar="DIR",
                      help="write checkpoints there, for --resume; made where there is none")
    kept.add_argument("--checkpoint-every", type=interval, default=Interval(None, 600.0), metavar="N",
                      help="iterations, or a time as 90s, 10min (default) or 2h; the last iteration has one too")
    kept.add_argument("--checkpoint-format", choices=("npz", "safetensors"), default="npz",
                      help="npz (default), or safetensors, by the package of that name; --resume reads either")
    kept.add_argument("--keep", type=POSITIVE_INT, default=3, metavar="N", help="the last N checkpoints stay (3)")
    kept.add_argument("--resume", action="store_true",
                      help="go on from the last checkpoint, at any number of ranks; start afresh where there is none")
    kept.add_argument("--restarts", type=COUNT, default=0, metavar="N",
                      help="where a rank fails, start all again from the last checkpoint, at most N times (0)")
    kept.add_argument("--time-limit", type=seconds, metavar="T",
                      help="stop this long after the command began, as 55min, with a checkpoint and exit code 124")


def _add_results(parser: Parser) -> None:
    out = parser.add_argument_group("results")
    out.add_argument("--metrics", metavar="FILE", help="write one JSON object a line")
    out.add_argument("--save", metavar="FILE", help="write the trained model (.npz)")
    out.add_argument("--estimate", action="store_true",
                     help="print what a rank would hold in memory, replicated and fused; train nothing")
    out.add_argument("--quiet", action="store_true", help="print nothing but errors")
