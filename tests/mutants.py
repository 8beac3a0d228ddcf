"""Plants each known bug of mutant_list.py, one at a time, and sees that the test named for it fails: `make mutants`.

    the project ── copy ──> a temporary directory ── one line changed ──> pytest -x, that test alone ──> verdict
                                      └── the line put back <────────────────────────┘

The project itself is never touched. A C kernel's bug is compiled into the copy first.
Cost: one to three seconds a bug, thirty for the one that ends by a time limit: seven minutes for all on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "build", "*.egg-info")
PYTEST = ("-m", "pytest", "-x", "-q", "-rs", "--tb=line", "-p", "no:cacheprovider", "--hypothesis-seed=0")
BUILD = ("setup.py", "-q", "build_ext", "--inplace", "--force")
EXTENSION = "npdp/kernels/_compiled*.so"
MARK = "NPDP_MUTANT_COPY"  # in the environment of all that runs in a copy, by which it is found again
ALL_TESTS_LIMIT_S = 900
FAILED, PASSED, NO_SUCH_TEST = 1, 0, (4, 5)  # pytest's exit codes
CAUGHT, SURVIVED, SKIPPED, GONE = "caught", "SURVIVED", "skipped", "MEND THE LIST"


class Verdict(NamedTuple):
    """What came of one mutant, and a remark where there is something to say."""

    word: str
    remark: str = ""


class Ended(NamedTuple):
    """How a program ended; without a code it took too long and was ended."""

    code: int | None
    output: str

    @property
    def last_line(self) -> str:
        return (self.output.strip().splitlines() or ["no output"])[-1]


class Copy:
    """A private copy of the project, and what runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "npdp"
        self.temporary = folder / "tmp"  # what tests leave goes with the copy
        self.temporary.mkdir(parents=True)
        shutil.copytree(ROOT, self.folder, ignore=NOT_COPIED)

    def run(self, *arguments: str, limit_s: float, keep_bytecode: bool = False) -> Ended:
        """Run Python in the copy, where `import npdp` finds the copy's; nothing of it is left when this returns."""
        own = {"PYTHONPATH": str(self.folder), MARK: str(self.folder), "TMPDIR": str(self.temporary)}
        own |= {} if keep_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"}  # a changed module's must not stay
        with tempfile.TemporaryFile() as output:  # no pipe: a rank that is left over would hold it open
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env={**os.environ, "CFLAGS": "-DNPDP_EMULATED_TILES", **own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                self.end_all(process)
            output.seek(0)
            return Ended(code, output.read().decode(errors="replace"))

    def end_all(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """End a program's process group, and whatever else was started in this copy: ranks have groups of their own."""
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left(self) -> list[int]:
        """Return the ids of the processes whose environment bears this copy's mark; none where it is not shown."""
        wanted = f"{MARK}={self.folder}\0".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    @contextlib.contextmanager
    def planted(self, mutant: Mutant) -> Iterator[str]:
        """Put the bug in, and take it out again; yields why that cannot be done, or nothing."""
        path = self.folder / mutant.file
        before, times = path.read_bytes(), path.stat()
        text = before.decode()
        if (found := text.count(mutant.original)) != 1:
            yield f"the original line is there {found} times" if found else "the original line is not there any more"
            return
        mutated = text.replace(mutant.original, mutant.mutated)
        if path.suffix == ".py":  # what cannot be compiled would fail any test
            try:
                compile(mutated, mutant.file, "exec")
            except SyntaxError as error:
                yield f"with it, it is no Python: {error}"
                return
        path.write_text(mutated)
        try:
            yield ""
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # so the bytecode from before counts again

    @contextlib.contextmanager
    def compiled(self, mutant: Mutant) -> Iterator[str]:
        """Build the C kernels anew where the bug is in them, and go back to those before; yields why there are none."""
        if not mutant.file.startswith("csrc/"):
            yield ""
            return
        before = {path: path.read_bytes() for path in self.folder.glob(EXTENSION)}
        for path in before:
            path.unlink()
        try:
            built = self.run(*BUILD, limit_s=300)
            yield "" if list(self.folder.glob(EXTENSION)) else f"the C kernels were not built: {built.last_line}"
        finally:
            for path, content in before.items():
                path.write_bytes(content)


def examine(copy: Copy, mutant: Mutant, limit_s: float) -> Verdict:
    """Plant one bug in a copy and run its test."""
    with copy.planted(mutant) as gone:
        if gone:
            return Verdict(GONE, f"{gone}, mend the list: {mutant.original!r}")
        with copy.compiled(mutant) as missing:
            if missing:
                return Verdict(SKIPPED, missing)
            return judge(copy.run(*PYTEST, mutant.tests, limit_s=limit_s), limit_s)


def judge(ended: Ended, limit_s: float) -> Verdict:
    """Return what the end of pytest means."""
    if ended.code is None:
        return Verdict(CAUGHT, f"ended after {limit_s:g} s")
    if ended.code in NO_SUCH_TEST:
        return Verdict(GONE, "the test is not there any more, mend the list")
    if ended.code == FAILED:
        return Verdict(CAUGHT)
    if ended.code != PASSED:
        return Verdict(CAUGHT, f"pytest ended with {ended.code}: {ended.last_line}")
    if " passed" in ended.last_line:
        return Verdict(SURVIVED)
    skips = [line for line in ended.output.splitlines() if line.startswith("SKIPPED")]
    return Verdict(SKIPPED, (skips or [ended.last_line])[0])


def check_unmutated(copy: Copy, mutants: Sequence[Mutant]) -> None:
    """See that the copy is what is tested, and that all tests pass in it; leave the bytecode for later runs."""
    found = copy.run("-c", "import npdp; print(npdp.__file__)", limit_s=60)
    if Path(found.last_line) != copy.folder / "npdp" / "__init__.py":
        sys.exit(f"`import npdp` finds {found.last_line}, not the copy in {copy.folder}")
    tests = list(dict.fromkeys(mutant.tests for mutant in mutants))
    ended = copy.run(*PYTEST, *tests, limit_s=ALL_TESTS_LIMIT_S, keep_bytecode=True)
    if ended.code != PASSED:
        how = f"ended with {ended.code}" if ended.code is not None else f"did not end within {ALL_TESTS_LIMIT_S} s"
        sys.exit(f"{ended.output}\nwithout any mutant the tests must pass, but pytest {how}: nothing was tried")
    print(f"without a mutant: {ended.last_line}", flush=True)


def line_of(number: str, mutant: Mutant, verdict: Verdict, took_s: float) -> str:
    """Return what is printed of one mutant: the first line that the bug changes, before and after."""
    before, after = mutant.original.splitlines(), mutant.mutated.splitlines()
    after += [""] * (len(before) - len(after))
    old, new = next(((a.strip(), b.strip()) for a, b in zip(before, after) if a != b), (before[0], after[0]))
    differs_at = next((place for place, (a, b) in enumerate(zip(old, new)) if a != b), 0)
    shared = max(0, differs_at - 30)
    left_out = "..." if shared else ""
    change = f"{mutant.file}: {left_out}{old[shared:]}  →  {left_out}{new[shared:] or '(nothing)'}"
    change = change if len(change) <= 150 else change[:147] + "..."
    remark = f"\n          {verdict.remark}" if verdict.remark else ""
    remark += f"\n          by {mutant.tests}" if verdict.word == SURVIVED else ""
    return f"{number}  {verdict.word:<8} {took_s:5.1f} s  {change}{remark}"


def try_all(copies: Sequence[Copy], mutants: Sequence[Mutant], limit_s: float) -> list[Verdict]:
    """Try each mutant in one of the copies, print a line for each, and return the verdicts."""
    free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def attempt(mutant: Mutant) -> tuple[Mutant, Verdict, float]:
        copy, before = free.get(), time.monotonic()
        try:
            return mutant, examine(copy, mutant, limit_s), time.monotonic() - before
        finally:
            free.put(copy)

    verdicts: list[Verdict] = []
    pool = ThreadPoolExecutor(len(copies))
    try:
        for done in as_completed([pool.submit(attempt, mutant) for mutant in mutants]):
            mutant, verdict, took_s = done.result()
            verdicts.append(verdict)
            print(line_of(f"{len(verdicts):>3}/{len(mutants)}", mutant, verdict, took_s), flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for copy in copies:
            copy.end_all()
        pool.shutdown()
    return verdicts


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="mutants whose area, file or test has it")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at a time (1)")
    parser.add_argument("--limit", type=float, default=120, metavar="S", help="seconds for one mutant's test (120)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants; return 0 where all are caught."""
    flags = parsed(arguments)
    mutants = [mutant for area, members in MUTANTS.items() for mutant in members
               if any(flags.only in text for text in (area, mutant.file, mutant.tests))]  # fmt: skip
    if not mutants:
        sys.exit(f"no mutant has {flags.only!r} in its area, file or test; areas: {', '.join(MUTANTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaves through every `finally`
    with tempfile.TemporaryDirectory(prefix="npdp-mutants-", ignore_cleanup_errors=True) as folder:
        copies = [Copy(Path(folder).resolve() / str(number)) for number in range(max(1, flags.jobs))]
        check_unmutated(copies[0], mutants)
        verdicts = [verdict.word for verdict in try_all(copies, mutants, flags.limit)]
    skipped = f", {verdicts.count(SKIPPED)} skipped" if SKIPPED in verdicts else ""
    print(f"{verdicts.count(CAUGHT)} of {len(verdicts)} caught{skipped}")
    return 0 if verdicts.count(CAUGHT) == len(verdicts) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; the copies are removed")
