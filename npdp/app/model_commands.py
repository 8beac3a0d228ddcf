"""Commands on saved models: `npdp evaluate`, `npdp predict`, `npdp generate`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from npdp.app.flag_parser import POSITIVE_INT, Parser, parser_of
from npdp.base import environment
from npdp.base.errors import InputError
from npdp.report.console import note, refuse
from npdp.report.output import print_now


def evaluate(arguments: Sequence[str]) -> int:
    """Print the scores of a saved model on data."""
    parser = parser_of("evaluate", "Loss, and for classes accuracy, of a saved model on the test part of a data set.",
                     "  npdp evaluate model.npz --data digits\n  npdp evaluate model.npz --data mnist/ --part train")
    from npdp.app import inference
    from npdp.app.train_flags import FRACTION, SEED

    parser.add_argument("model", help="a file written by --save")
    parser.add_argument("--data", default="digits", metavar="WHAT", help="as in `npdp train` (digits)")
    parser.add_argument("--target", metavar="COLUMN", help="a .csv's target: a column's name, or number from 1 "
                        "(that of training, by its name; the last without a header)")
    parser.add_argument("--part", choices=("test", "train", "all"), default="test", help="which samples (test)")
    parser.add_argument("--test-fraction", type=FRACTION, metavar="F", help="as in training (0.2)")
    parser.add_argument("--seed", type=SEED, default=0, metavar="N",
                        help="as in training: it chose the test part (0)")  # fmt: skip
    _add_trust(parser)
    return _answered(parser, arguments, inference.evaluate)


def predict(arguments: Sequence[str]) -> int:
    """Print a saved model's answers."""
    parser = parser_of("predict", "The classes, or numbers, that a saved model gives for samples, one line each. "
                     "Classes are called as in the data that it was trained on: -1 and 1 where those were its labels. "
                     "Columns of a .csv with a header are found by their names, in any order.",
                     "  npdp predict model.npz samples.csv > answers.txt\n"
                     "  npdp predict model.npz x.npy --probabilities")
    parser.add_argument("model", help="a file written by --save")
    parser.add_argument("samples", help=".npy or .npz (x) of features, .csv of features (a target column is ignored), "
                                        ".svm where the model takes sparse data, or digits")
    parser.add_argument("--target", metavar="COLUMN", help="a .csv's column to ignore (the target of training, by its "
                        "name; without a header the last, if one more)")
    parser.add_argument("--probabilities", action="store_true", help="each class's probability, comma-separated")
    _add_trust(parser)
    from npdp.app import inference

    return _answered(parser, arguments, inference.predict)


def generate(arguments: Sequence[str]) -> int:
    """Go on with a text, by a saved language model."""
    parser = parser_of("generate", "Print a text that goes on from a prompt, token by token, by a language model that "
                     "`npdp train --model gpt --save` has written.",
                     '  npdp generate model.npz --prompt "def " --tokens 200\n'
                     '  npdp generate model.npz --prompt "The " --temperature 0.8 --top-k 40 --seed 1')
    from npdp.app.train_flags import COUNT, NOT_NEGATIVE, SEED

    parser.add_argument("model", help="a file written by --save")
    parser.add_argument("--prompt", default="\n", metavar="TEXT", help="what to go on from (a new line)")
    parser.add_argument("--tokens", type=COUNT, default=200, metavar="N", help="how many (200)")
    parser.add_argument("--temperature", type=NOT_NEGATIVE, default=0.8, metavar="T",
                        help="below 1 likely tokens become likelier, 0 takes the likeliest (0.8)")
    parser.add_argument("--top-k", type=POSITIVE_INT, metavar="K", help="draw among the K likeliest (all)")
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="of the draws (0)")
    _add_trust(parser)
    flags = parser.parse_args(arguments)
    environment.set_blas_threads(environment.cores())  # one: products of a token are small, and threads would wait
    from npdp.app.generation import seen, text_of

    shown = seen if sys.stdout.isatty() else str
    draws = (flags.tokens, flags.temperature, flags.top_k, flags.seed)
    for piece in text_of(flags.model, flags.prompt, *draws, flags.trust):
        print_now(shown(piece), end="")
    print_now("")
    return 0


def _add_trust(parser: Parser) -> None:
    parser.add_argument("--trust", action="store_true",
                        help="run the .py file that the model names, where --model was a file.py:function")


def _answered(parser: Parser, arguments: Sequence[str], work: Callable[..., str]) -> int:
    """Print on rank 0 what `work` returns for the flags, or why it cannot be done; collective."""
    from npdp.app import inference
    from npdp.parallel.agreement import agree
    from npdp.parallel.world import init

    world = init()
    try:
        flags = agree(world, lambda: parser.parse_args(arguments))
        text = work(**vars(flags), say=note if world.rank == 0 else inference.unsaid)
    except InputError as error:
        if world.rank == 0:
            refuse(str(error))
        return 2
    if world.rank == 0:
        print_now(text)
    return 0
