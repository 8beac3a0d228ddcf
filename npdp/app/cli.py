"""The command `npdp`: one subcommand a task; each imports what it needs when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import npdp
from npdp.app.flag_parser import POSITIVE_INT, Parser, number_of_ranks
from npdp.app.on_ranks import RankFlags, interrupted
from npdp.base import environment
from npdp.base.errors import InputError, OutputError
from npdp.comm.failures.ending import announce_failure, launcher_ends_all
from npdp.report.console import discard_output, note, refusal, refuse

EXAMPLES = """
examples:
  npdp train --ranks 4                            train on the digits, on four ranks of this machine
  npdp train --ranks 4 --save model.npz           the same, and keep the model
  npdp run --ranks 4 mine.py --epochs 3           a program of your own, on four ranks
  npdp evaluate model.npz --data digits           loss and accuracy on a test part
  npdp predict model.npz samples.csv              one line a sample
  npdp generate model.npz --prompt "def "         text that goes on from there
  npdp bench allreduce --ranks 2                  each algorithm at each size, beside a memory copy
  npdp calibrate --ranks 2                        measure what messages cost here, by which auto chooses
  eval "$(npdp env)"; mpirun -n 4 python -m npdp.train
"""


def train(arguments: Sequence[str]) -> int:
    """Train, on ranks that this command starts itself."""
    from npdp.app import config
    from npdp.app import train as training

    if "--estimate" in arguments:  # of ranks that need not be started
        flags = config.parse(arguments)
        from npdp.app.estimate import estimate

        _print(estimate(flags))
        return 0
    return _on_ranks(config.parse, "npdp.train", training.main, arguments)


def run(arguments: Sequence[str]) -> int:
    """Run a program of yours on ranks that this command starts."""
    parser = _parser("run", "Start ranks of a Python program, as `mpirun -n N python PROGRAM` does: with the mpirun "
                     "that belongs to this MPI, and the settings that it needs here. Ranks have no standard input: one "
                     "that reads finds its end.",
                     "  npdp run --ranks 4 mine.py --epochs 3\n  npdp run --ranks 4 -m package.module\n"
                     "  npdp run --ranks 4 --elastic mine.py")
    parser.usage = "npdp run [-h] [--ranks N] [--elastic] [-m] PROGRAM [ARGUMENT ...]"
    parser.add_argument("--ranks", type=number_of_ranks, default=environment.cores(), metavar="N",
                        help=f"how many to start (one a core: {environment.cores()})")  # fmt: skip
    parser.add_argument("--elastic", action="store_true",
                        help="let ranks live on when others die, for a program that uses npdp.elastic.run (Open MPI)")
    parser.add_argument("-m", dest="is_module", action="store_true", help="PROGRAM is a module, as for python -m")
    parser.add_argument("program", metavar="PROGRAM", help="a Python file; what follows is its own")
    at = _program_at(arguments)
    flags = parser.parse_args(arguments[: at + 1])
    if environment.is_one_of_several():
        raise InputError("npdp run starts ranks, but a launcher has started this one: leave one of the two out")
    if not flags.is_module and not os.path.exists(flags.program):
        raise InputError(f"npdp run: no program {flags.program}; a module is named after -m")
    if ":" in arguments[at + 1 :]:
        raise InputError("npdp run: mpirun would take the argument ':' for the end of this program's")
    from npdp.app import launch

    path = f"./{flags.program}" if flags.program.startswith("-") else flags.program
    program = [*(["-m"] if flags.is_module else []), path, *arguments[at + 1 :]]
    more = launch.surviving() if flags.elastic else ()
    return launch.run_ranks_with_mpirun(flags.ranks, program, is_own=False, flags_of_mpirun=more)


def _program_at(arguments: Sequence[str]) -> int:
    """Return where a row of flags ends and a program and its arguments begin."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        if arguments[at] == "--":
            return at + 1
        at += 2 if arguments[at] == "--ranks" else 1
    return at


def evaluate(arguments: Sequence[str]) -> int:
    """Print the scores of a saved model on data."""
    parser = _parser("evaluate", "Loss, and for classes accuracy, of a saved model on the test part of a data set.",
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
    return _report(parser, arguments, inference.evaluate)


def predict(arguments: Sequence[str]) -> int:
    """Print a saved model's answers."""
    parser = _parser("predict", "The classes, or numbers, that a saved model gives for samples, one line each. Classes "
                     "are called as in the data that it was trained on: -1 and 1 where those were its labels. Columns "
                     "of a .csv with a header are found by their names, in any order.",
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

    return _report(parser, arguments, inference.predict)


def generate(arguments: Sequence[str]) -> int:
    """Go on with a text, by a saved language model."""
    parser = _parser("generate", "Print a text that goes on from a prompt, token by token, by a language model that "
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
        _print(shown(piece), end="")
    _print("")
    return 0


def _add_trust(parser: Parser) -> None:
    parser.add_argument("--trust", action="store_true",
                        help="run the .py file that the model names, where --model was a file.py:function")


def env(arguments: Sequence[str]) -> int:
    """Print the settings that mpirun needs here."""
    parser = _parser("env", "Print, for a shell, the settings that mpirun needs on this machine: to run as root, to "
                     "start more ranks than there are cores, and HOME where cron or systemd set none. Nothing is "
                     "printed that is set already.",
                     '  eval "$(npdp env)"; mpirun -n 4 python -m npdp.train')
    parser.parse_args(arguments)
    from npdp.app import launch

    lines = launch.env_lines()
    if lines:
        _print(lines)
    return 0


def bench(arguments: Sequence[str]) -> int:
    """Time collectives and training iterations."""
    from npdp.bench import flags, run

    return _on_ranks(flags.parse, "npdp.bench", run.main, arguments)


def calibrate(arguments: Sequence[str]) -> int:
    """Measure what messages and memory cost here, by which auto chooses."""
    return bench(["calibrate", *arguments])


def chaos(arguments: Sequence[str]) -> int:
    """Train many times with faults, and see whether what is promised holds."""
    from npdp.app.chaos import command

    return command.chaos(arguments, _print)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "run": run,
    "evaluate": evaluate,
    "predict": predict,
    "generate": generate,
    "env": env,
    "bench": bench,
    "calibrate": calibrate,
    "chaos": chaos,
}


def _on_ranks(
    parse: Callable[[Sequence[str]], RankFlags],
    module: str,
    main: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
) -> int:
    """Run a module on ranks that mpirun starts, where several are wanted and none started yet; else `main` here."""
    from npdp.app import launch

    if not environment.is_one_of_several():
        flags = parse(arguments)  # what is wrong with them is said before ranks are started
        spares = getattr(flags, "spares", 0)
        ranks = (flags.ranks or 1) + spares
        if flags.transport == "mpi" and ranks > 1:
            more = launch.surviving() if getattr(flags, "elastic", False) else ()
            os.environ[environment.SPARES] = str(spares)
            return launch.run_ranks_with_mpirun(ranks, ["-m", module, *arguments], flags_of_mpirun=more)
    return main(arguments)


def _refuse_once(message: str) -> None:
    """Say what went wrong: on the first rank that comes where the launcher then ends the others, else on rank 0."""
    launched = environment.launch()
    if environment.is_one_of_several() and launcher_ends_all():
        announce_failure(refusal(message) + "\n")
    elif launched is None or launched.rank == 0:
        refuse(message)


def _parser(name: str, description: str, examples: str) -> Parser:
    return Parser(
        prog=f"npdp {name}", description=description, epilog=f"examples:\n{examples}", allow_abbrev=False
    )


def _report(parser: Parser, arguments: Sequence[str], work: Callable[..., str]) -> int:
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
        _print(text)
    return 0


def _print(text: str, end: str = "\n") -> None:
    """Print it here and now, where what goes wrong is dealt with."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output could not be written: {error.strerror or error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    what = "\n".join(f"  {name:<10} {command.__doc__}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="npdp",
        usage="npdp COMMAND [flags]",
        description=f"Data-parallel SGD on CPUs.\n\ncommands (each has --help):\n{what}",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"npdp {npdp.__version__}")
    try:
        if not arguments or arguments[0].startswith("-"):
            parser.parse_args(arguments)
            parser.print_help()
            return 0
        if arguments[0] not in COMMANDS:
            parser.error(f"no command {arguments[0]!r}; there are {', '.join(COMMANDS)}")
        return COMMANDS[arguments[0]](arguments[1:])
    except InputError as error:
        _refuse_once(str(error))
        return 2
    except OutputError as error:
        discard_output()
        refuse(str(error))
        return 1
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        discard_output()
        return 1
    except KeyboardInterrupt as error:
        return interrupted(error)
