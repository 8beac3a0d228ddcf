"""Fuzz of all readers of files: `make fuzz`, or python tests/fuzz_readers.py --inputs 10000 [--readers csv,npz].

    parent                       child (a limit of memory, and of time)
    for each reader: start ────> input 0, 1, 2, ...: a file that is right, mutated from (seed, reader, number)
    ended early? note that <──── read it: refused as promised, or loaded
    input, start at the next

An input fails where the reader raises anything else, ends the process, takes 10 s of the processor or waits for 300,
takes more than 64 MB and three times what it decodes to, or runs code. What failed is kept in build/fuzz/.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

TOOK_MAX_S = 10  # of the processor
WAITED_MAX_S = 300
FREE_BYTES, TIMES_DECODED = 64 * 2**20, 3
MUCH_BYTES = 2**34  # to see how much something decodes to that takes more
MUTATIONS_MAX = 3
KEPT = Path("build/fuzz")
PROGRAMS = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "ctypes.dlopen",
)
TRAP = "def make(*_):\n    raise SystemExit('run')\n"


class Failure(NamedTuple):
    """An input that a reader did not take as it promises: its number and what happened."""

    number: int
    what: str


class CodeRunError(BaseException):
    """A file had code run."""


# The child
def mutated(name: str, seeds: list[dict[str, bytes]], seed: int, number: int) -> dict[str, bytes]:
    """Return an input, the same for the same arguments."""
    from fuzz_formats import READERS

    reader, rng = READERS[name], random.Random(f"{seed} {name} {number}")
    files = dict(rng.choice(seeds))
    changed = rng.choice(sorted(files))
    for _ in range(rng.choice((1, 1, *range(2, MUTATIONS_MAX + 1)))):
        files[changed] = rng.choice(reader.mutations)(rng, files[changed])
    files[changed] = reader.forge(rng, files[changed])
    return files


def written(folder: Path, files: dict[str, bytes]) -> Path:
    """Write an input into a folder, where nothing else is then but a program that is not to be run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if "m.npz" in files:
        (folder / "trap.py").write_text(TRAP)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def decoded_bytes(found: Any, seen: set[int]) -> int:
    """Return how many bytes what was read has: arrays, texts, and all that holds them."""
    if id(found) in seen or found is None or isinstance(found, type):
        return 0
    seen.add(id(found))
    if hasattr(found, "nbytes"):
        return int(found.nbytes)
    inner = list(found.items()) if isinstance(found, dict) else []
    inner += list(found) if isinstance(found, (list, tuple, set)) else [*getattr(found, "__dict__", {}).values()]
    return sys.getsizeof(found) + sum(decoded_bytes(each, seen) for each in inner)


def attempt(name: str, folder: Path, free_bytes: int) -> tuple[str, str, int]:
    """Read an input with so much memory to be had; return how it went, what was said, and what it decodes to."""
    from fuzz_formats import READERS

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    faulthandler.dump_traceback_later(WAITED_MAX_S, exit=True)
    signal.setitimer(signal.ITIMER_PROF, TOOK_MAX_S)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (now + free_bytes, hard))
        try:
            found = READERS[name].read(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    except MemoryError:
        return "memory", traceback.format_exc(), 0
    except READERS[name].promised as error:
        if isinstance(error.__context__, MemoryError):
            return "memory", traceback.format_exc(), 0
        right = "\n" not in str(error) and (type(error) is not ValueError or "checkpoint" in name)
        return "refused" if right else "failed", traceback.format_exc(), 0
    except (Exception, CodeRunError):
        return "failed", traceback.format_exc(), 0
    else:
        return "loaded", "", decoded_bytes(found, set())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()


def outcome(name: str, folder: Path) -> tuple[str, str]:
    """Read an input, and return how it went: sizes that it claims, and has not, are to cost nothing."""
    free_bytes = FREE_BYTES + TIMES_DECODED * sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    how, said, _ = attempt(name, folder, free_bytes)
    if how != "memory":
        return how, said
    again, why, nbytes = attempt(name, folder, MUCH_BYTES)
    if again != "loaded":
        return "failed", f"takes memory for nothing: {said}\nand, where there is some: {again} {why}"
    how, why, _ = attempt(name, folder, FREE_BYTES + TIMES_DECODED * nbytes)
    return how if how == "loaded" else "failed", f"takes too much for {nbytes} decoded bytes: {why}"


def watch_for_code(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise where a file has something run; an audit hook."""
    is_of_file = event == "exec" and "trap" in str(getattr(arguments[0], "co_filename", ""))
    if is_of_file or event in PROGRAMS or (event == "import" and arguments[0] == "trap"):
        raise CodeRunError(f"{event} {arguments}")


def child(name: str, seed: int, first: int, stop: int, report: int) -> None:
    """Read inputs [first, stop), and report each in a line: its number before, how it went after."""
    from fuzz_formats import READERS

    with tempfile.TemporaryDirectory(prefix="npdp-fuzz-") as made:
        os.environ["XDG_CACHE_HOME"] = f"{made}/input"
        (Path(made) / "seeds").mkdir()
        seeds, folder = READERS[name].seeds(Path(made) / "seeds"), Path(made) / "input"
        for files in seeds:
            READERS[name].read(written(folder, files))
        sys.addaudithook(watch_for_code)
        faulthandler.register(signal.SIGPROF, chain=True)  # says where, then ends the process
        for number in range(first, stop):
            os.write(report, f"{number}\n".encode())
            files = mutated(name, seeds, seed, number)
            start = time.process_time()
            how, said = outcome(name, written(folder, files))
            told = [how, time.process_time() - start, said if how == "failed" else ""]
            os.write(report, (json.dumps(told) + "\n").encode())


# The parent
def campaign(name: str, seed: int, inputs: int) -> tuple[Counter[str], float, list[Failure]]:
    """Return how many inputs were refused, loaded or failed; the longest time of one; and those that failed."""
    counts: Counter[str] = Counter()
    slowest_s, failures, first = 0.0, list[Failure](), 0
    while first < inputs:
        lines, errors = _in_child(name, seed, first, inputs)
        for at in range(0, len(lines) - 1, 2):
            how, seconds, said = json.loads(lines[at + 1])
            counts[how] += 1
            slowest_s = max(slowest_s, seconds)
            failures += [Failure(int(lines[at]), said)] * (how == "failed")
        first += len(lines) // 2
        if first < inputs:  # the child has ended within an input, or before the first
            counts["failed"] += 1
            failures.append(Failure(first, f"the process ended: {errors[-3000:]}"))
            if not lines:
                break
            first += 1
    return counts, slowest_s, failures


def _in_child(name: str, seed: int, first: int, stop: int) -> tuple[list[str], str]:
    with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as errors:
        asked = f"import fuzz_readers; fuzz_readers.child({name!r}, {seed}, {first}, {stop}, {report.fileno()})"
        settings = {
            "PYTHONPATH": str(Path(__file__).parent),
            "MALLOC_ARENA_MAX": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OPENBLAS_NUM_THREADS": "1",
            "RAYON_NUM_THREADS": "1",
        }
        subprocess.run(
            [sys.executable, "-c", asked],
            env={**os.environ, **settings},
            pass_fds=[report.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            check=False,
        )
        report.seek(0)
        errors.seek(0)
        return report.read().decode().splitlines(), errors.read().decode("utf-8", "replace")


def keep(name: str, seed: int, failure: Failure) -> None:
    """Write what failed to build/fuzz/, with what happened."""
    from fuzz_formats import READERS

    folder = KEPT / f"{name.replace(' ', '-')}-{seed}-{failure.number}"
    with tempfile.TemporaryDirectory() as seeds:
        KEPT.mkdir(parents=True, exist_ok=True)
        written(folder, mutated(name, READERS[name].seeds(Path(seeds)), seed, failure.number))
    (folder / "why.txt").write_text(failure.what)


def main() -> int:
    """Run the campaign; 1 where an input failed."""
    from fuzz_formats import READERS

    parser = argparse.ArgumentParser(description="Fuzz of all readers of files.")
    parser.add_argument("--inputs", type=int, default=10_000, help="for each reader (10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--readers", type=lambda names: names.split(","), default=list(READERS), help=", ".join(READERS)
    )
    asked = parser.parse_args()
    failed = 0
    for name in asked.readers:
        start = time.perf_counter()
        counts, slowest_s, failures = campaign(name, asked.seed, asked.inputs)
        print(
            f"{name:<16} refused {counts['refused']:6}  loaded {counts['loaded']:6}  failed {counts['failed']:6}  "
            f"slowest {slowest_s:6.3f} s  in {time.perf_counter() - start:4.0f} s",
            flush=True,
        )
        for failure in failures:
            keep(name, asked.seed, failure)
        kinds = Counter(failure.what.rstrip().splitlines()[-1][:160] for failure in failures)
        for what, count in kinds.most_common(8):
            print(f"    {count:5} {what}")
        failed += counts["failed"]
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
