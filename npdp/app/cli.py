"""The command `npdp`: one subcommand a task; each imports what it needs when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import npdp
from npdp.app.flag_parser import Parser, number_of_ranks, parser_of
from npdp.app.model_commands import evaluate, generate, predict
from npdp.app.on_ranks import Flags, RankFlags, interrupted
from npdp.base import environment
from npdp.base.errors import InputError, OutputError
from npdp.comm.failures.ending import announce_failure, launcher_ends_all
from npdp.report.console import discard_output, own_terminal_width, refusal, refuse
from npdp.report.output import print_now

EXAMPLES = """
examples:
  npdp train --ranks 4                            train on the digits, on four ranks of this machine
  npdp train --ranks 4 --save model.npz           the same, and keep the model
  npdp run --ranks 4 mine.py --epochs 3           a program of your own, on four ranks
  npdp evaluate model.npz --data digits           loss and accuracy on a test part
  npdp predict model.npz samples.csv              one line a sample
  npdp generate model.npz --prompt "def "         text that goes on from there
  npdp show ring --ranks 4                        the ring's steps, and whose contribution is where
  npdp play ring --ranks 4 -o ring.html           a page that plays them, and on which they can be broken
  npdp grade ring yours.py                        points for an exercise, and what is wrong
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

        print_now(estimate(flags))
        return 0
    from npdp.app import restarts

    return _on_ranks(config.parse, "npdp.train", training.main, arguments, restarts.run)


def run(arguments: Sequence[str]) -> int:
    """Run a program of yours on ranks that this command starts."""
    parser = parser_of("run", "Start ranks of a Python program, as `mpirun -n N python PROGRAM` does: with the mpirun "
                     "that belongs to this MPI, and the settings that it needs here. Ranks have no standard input: one "
                     "that reads finds its end. Ctrl-C and SIGTERM end them, or ask those to stop that call "
                     "npdp.stop_requested().",
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


def show(arguments: Sequence[str]) -> int:
    """Draw a schedule, step by step, and say whether it is right."""
    from npdp.app import showing

    parser = parser_of("show", "Draw a collective's schedule: the moves of each step, and whose contribution is in "
                     "each chunk of each rank after it. `+>` is a move whose receiver adds, `->` one whose receiver "
                     "replaces. A wrong one is told by its first wrong step and move, and exit code 1.",
                     showing.EXAMPLES)
    showing.add_flags(parser)
    text, is_right = showing.shown(**vars(parser.parse_args(arguments)), width=own_terminal_width())
    print_now(text)
    return 0 if is_right else 1


def play(arguments: Sequence[str]) -> int:
    """Write a page that plays a schedule, and on which it can be broken."""
    from npdp.app import playing

    parser = parser_of("play", "Write a page that plays a collective's schedule in a browser: who sends what, whose "
                     "contribution is in each chunk, bytes and time, forwards and backwards. On it moves can be "
                     "dropped or repeated, a rank killed, a link slowed. A wrong schedule is played with its verdict.",
                     playing.EXAMPLES)
    playing.add_flags(parser)
    print_now(playing.written(**vars(parser.parse_args(arguments))))
    return 0


def grade(arguments: Sequence[str]) -> int:
    """Grade a solution of an exercise, or hand out the exercise."""
    from npdp.grading import command

    return command.run(arguments, print_now, own_terminal_width())


def env(arguments: Sequence[str]) -> int:
    """Print the settings that mpirun needs here."""
    parser = parser_of("env", "Print, for a shell, the settings that mpirun needs on this machine: to run as root, to "
                     "start more ranks than there are cores, and HOME where cron or systemd set none. Nothing is "
                     "printed that is set already.",
                     '  eval "$(npdp env)"; mpirun -n 4 python -m npdp.train')
    parser.parse_args(arguments)
    from npdp.app import launch

    lines = launch.env_lines()
    if lines:
        print_now(lines)
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

    return command.chaos(arguments, print_now)


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
    "show": show,
    "play": play,
    "grade": grade,
}


def _launched(flags: RankFlags, module: str, arguments: Sequence[str]) -> int:
    from npdp.app import launch

    return launch.run_ranks_with_mpirun(flags.ranks or 1, ["-m", module, *arguments])


def _on_ranks(
    parse: Callable[[Sequence[str]], Flags],
    module: str,
    main: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
    launched: Callable[[Flags, str, Sequence[str]], int] = _launched,
) -> int:
    """Run a module on ranks that mpirun starts, where several are wanted and none started yet; else `main` here."""
    if not environment.is_one_of_several():
        flags = parse(arguments)  # what is wrong with them is said before ranks are started
        if flags.transport == "mpi" and (flags.ranks or 1) + getattr(flags, "spares", 0) > 1:
            return launched(flags, module, arguments)
    return main(arguments)


def _refuse_once(message: str) -> None:
    """Say what went wrong: on the first rank that comes where the launcher then ends the others, else on rank 0."""
    launched = environment.launch()
    if environment.is_one_of_several() and launcher_ends_all():
        announce_failure(refusal(message) + "\n")
    elif launched is None or launched.rank == 0:
        refuse(message)


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
