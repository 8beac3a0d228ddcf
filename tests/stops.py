"""Stops training by SIGTERM at random moments and checks what it promises: `make stops`, some minutes.

    seconds after the start   code   what it did                        seconds from the signal to the end
    0.05                      -15    ended before anything had begun
    0.74                      143    ended before training
    2.31                      143    stopped after iteration 410        0.42

Each time: the exit code; one line that says what to do; a whole checkpoint of exactly the iteration that it names, from
which training goes on; no process, shared memory or temporary file is left.
"""

import argparse
import random
import re
import signal
import statistics
import tempfile
import time
from pathlib import Path

from launching import end, left_in_shared_memory, python, shared_memory, started
from training import strict_lines

from npdp.elastic import checkpoint

ENDS_WITHIN_S = 20
STOPPED = re.compile(r"npdp: note: stopped by SIGTERM after iteration (\d+); go on from \S+ with: npdp .* --resume\n$")
ENDED = "npdp: error: ended by SIGTERM\n"
CODES = {"stopped": 143, "ended": 143, "not begun": -signal.SIGTERM}


def flags_of(folder, ranks):
    return ("train", "--ranks", str(ranks), "--quiet", "--model", "mlp", "--hidden", "64", "--epochs", "1000000",
            "--checkpoint", f"{folder}/kept", "--checkpoint-every", "50", "--metrics", f"{folder}/m.jsonl")  # fmt: skip


def stop(after_s, ranks, folder):
    """Train, and stop so long after the start; return what it did, after which iteration, and in how many seconds."""
    (folder / "tmp").mkdir()
    memory = shared_memory()
    with started("-m", "npdp", *flags_of(folder, ranks), TMPDIR=str(folder / "tmp")) as (process, mark):
        time.sleep(after_s)
        process.send_signal(signal.SIGTERM)
        began_s = time.monotonic()
        _, said = process.communicate(timeout=ENDS_WITHIN_S)
        took_s = time.monotonic() - began_s
        assert not (left := end(mark)), f"processes left: {left}"
    assert not (left := left_in_shared_memory(memory)), f"shared memory left: {left}"
    assert not (left := list((folder / "tmp").iterdir())), f"temporary files left: {left}"
    found = STOPPED.search(said)
    did = "stopped" if found else "ended" if said.endswith(ENDED) else "not begun"  # mpirun may have words of its own
    assert process.returncode == CODES[did], (process.returncode, said)
    return did, int(found[1]) if found else None, took_s


def check_kept(folder, ranks, iteration):
    """See that there is a whole checkpoint of exactly this iteration, no other file, and that training goes on."""
    kept = folder / "kept"
    assert checkpoint.read(checkpoint.path_of(str(kept), iteration))["iteration"] == iteration
    assert all(checkpoint.NAME.fullmatch(path.name) for path in kept.iterdir())
    last = strict_lines((folder / "m.jsonl").read_text())[-1]
    assert (last["event"], last["iteration"], last["why"]) == ("stopped", iteration, "SIGTERM")
    outcome = python("-m", "npdp", *flags_of(folder, ranks), "--resume", "--time-limit", "0.01s")
    assert outcome.code == 124 and "stopped by --time-limit" in outcome.stderr, outcome.stderr
    assert checkpoint.numbers(str(kept))[0] == iteration + 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--within-s", type=float, default=8.0, help="signals come so long after the start, or earlier")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    moments, took = random.Random(flags.seed), []
    for _ in range(flags.times):
        with tempfile.TemporaryDirectory(prefix="npdp-stops-") as name:
            after_s, folder = moments.uniform(0, flags.within_s), Path(name)
            did, iteration, took_s = stop(after_s, flags.ranks, folder)
            if iteration is not None:
                check_kept(folder, flags.ranks, iteration)
                took.append(took_s)
            print(f"{after_s:6.2f} s  {did:9}  {f'iteration {iteration}' if iteration else '':15}  {took_s:.2f} s",
                  flush=True)  # fmt: skip
    said = f"; from the signal to the end {statistics.median(took):.2f} s, {max(took):.2f} s at most" if took else ""
    print(f"{flags.times} stops, {len(took)} of them in training{said}")


if __name__ == "__main__":
    main()
