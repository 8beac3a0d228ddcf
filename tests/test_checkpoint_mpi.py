"""Training under mpirun that is killed, also while it writes a checkpoint, goes on to what it gives undisturbed."""

import os
import shutil
import signal
import time

import pytest
from launching import TRAINS_WITHIN_S, mpirun, needs_mpi, on_ranks, pid_of, started
from training import DIGITS_TRAIN, off, read_run

from npdp.elastic import checkpoint

pytestmark = needs_mpi
EPOCHS, BATCH, ITERATIONS = 3, 50, 87
FLAGS = ("-m", "npdp.train", "--quiet", "--dtype", "float64", "--model", "mlp", "--hidden", "64", "--epochs",
         str(EPOCHS), "--global-batch-size", str(BATCH))  # fmt: skip


def trained(ranks, folder, *flags):
    folder.mkdir(exist_ok=True)
    outcome = mpirun(ranks, *FLAGS, "--metrics", f"{folder}/run.jsonl", "--save", f"{folder}/model.npz", *flags)
    assert outcome.code == 0, outcome.stderr
    return read_run(outcome.code, folder)


def killed(ranks, kept, rank, after):
    """Train, and kill a rank soon after there is a checkpoint of so many iterations; nothing else is left then."""
    flags = ("--checkpoint", str(kept), "--checkpoint-every", "1", "--inject", "delay@ms=4")
    with started(*FLAGS, *flags, before=on_ranks(ranks)) as (process, mark):
        until = time.monotonic() + TRAINS_WITHIN_S
        while not kept.exists() or max(checkpoint.numbers(str(kept)), default=0) < after:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.001)
        os.kill(pid_of(mark, rank), signal.SIGKILL)
        process.communicate(timeout=TRAINS_WITHIN_S)
        assert process.returncode != 0


@pytest.mark.parametrize(("ranks", "rank", "after"), [(1, 0, 30), (2, 0, 1), (2, 1, 40), (3, 0, 60)])
def test_killed_at_any_moment_it_goes_on_to_the_same_bits_and_at_other_ranks_to_the_same_model(
    ranks, rank, after, tmp_path
):
    wanted = trained(ranks, tmp_path / "undisturbed")
    kept = tmp_path / "kept"
    killed(ranks, kept, rank, after)
    at = checkpoint.numbers(str(kept))[0]
    assert after <= at < ITERATIONS
    shutil.copytree(kept, tmp_path / "also kept")
    run = trained(ranks, tmp_path / "resumed", "--checkpoint", str(kept), "--resume")
    assert run.end["parameters_sha256"] == wanted.end["parameters_sha256"]
    epoch, batches = divmod(at, ITERATIONS // EPOCHS)
    assert run.end["samples_seen"] == (EPOCHS - epoch) * DIGITS_TRAIN - batches * BATCH
    assert all(checkpoint.NAME.fullmatch(path.name) for path in kept.iterdir())  # nothing half written is left
    others = trained(4 - ranks, tmp_path / "others", "--checkpoint", str(tmp_path / "also kept"), "--resume")
    assert off(others, wanted) < 1e-12
