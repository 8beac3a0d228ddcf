"""npdp train says whose gradient was not finite, keeps the batch and ends all ranks; or leaves that update out."""

import re

import numpy as np
import pytest
from needs import needs_shared_memory
from training import strict_lines

from npdp.app import train
from npdp.data.sampler import epoch_order
from npdp.elastic import checkpoint

COUNT, BATCH, POISON = 40, 8, 17  # samples, of which one is so large that its gradient overflows
ITERATION = int(np.flatnonzero(epoch_order(COUNT, 0, 0) == POISON)[0]) // BATCH
FLAGS = ("--quiet", "--epochs", "2", "--global-batch-size", str(BATCH), "--learning-rate", "0.01", "--momentum", "0.5",
         "--transport", "threads")  # fmt: skip
WAYS = {
    "replicated": ("--update", "replicated"),
    "fused": ("--update", "fused"),
    "by messages": ("--algorithm", "ring"),
    "naive": ("--strategy", "naive"),
    "micro-batches": ("--accumulate", "2", "--clip-norm", "1"),
    "servers": ("--strategy", "ps", "--servers", "0"),
    "local SGD": ("--strategy", "local-sgd"),
}


@pytest.fixture
def data(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((COUNT, 3))
    x[POISON] = 3e30
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=x[:, 0], x_test=x[:5], y_test=x[:5, 0])
    return path


def trained(data, *flags, ranks=2):
    """Train on it; return the exit code and the metrics."""
    metrics = data.parent / "run.jsonl"
    given = [*FLAGS, "--ranks", str(ranks), "--data", str(data), "--metrics", str(metrics), *map(str, flags)]
    code = train.main(given)
    return code, strict_lines(metrics.read_text()) if metrics.exists() else []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ranks", [1, 3])
def test_the_run_ends_with_one_line_an_event_and_the_batch(data, way, ranks, capsys):
    code, events = trained(data, *WAYS[way], ranks=ranks)
    error = capsys.readouterr().err
    (bad,) = re.findall(
        rf"npdp: error: iteration {ITERATION + 1}: the gradient is not finite: rank (\d)'s has NaN or infinity, "
        r"first in weight, from samples [\d, ]+; the batch is kept: .*npz; where training diverges, try .*\n",
        error,
    )
    (path,) = data.parent.glob("not_finite_*")
    assert path.name == f"not_finite_{ITERATION + 1:06d}_rank{bad}.npz" and error.count("\n") == 1 == code
    with np.load(path) as kept, np.load(data) as given:
        assert set(kept) == {"inputs", "labels", "rows"} and POISON in kept["rows"]
        np.testing.assert_array_equal(kept["inputs"], given["x"][kept["rows"]].astype(np.float32))
        np.testing.assert_array_equal(kept["labels"].ravel(), given["y"][kept["rows"]].astype(np.float32))
        rows = kept["rows"].tolist()
    if events[-1]["event"] == "not_finite":  # a rank that is alone with it has no metrics file, but rank 0
        wanted = {"event": "not_finite", "iteration": ITERATION + 1, "action": "raise", "files": [str(path)]}
        assert events[-1] == wanted | {"ranks": [{"rank": int(bad), "parameter": "weight", "rows": rows}]}
    else:
        assert way in ("servers", "local SGD") and bad != "0"


@pytest.mark.parametrize("update", ["replicated", pytest.param("fused", marks=needs_shared_memory)])
def test_checkpoints_are_of_before_and_training_goes_on_from_the_last_one(data, update, capsys):
    folder = data.parent / "kept"
    flags = ("--update", update, "--checkpoint", folder, "--checkpoint-every", "1", "--keep", "100")
    assert trained(data, *flags)[0] == 1
    assert checkpoint.numbers(folder) == list(range(ITERATION, 0, -1))
    assert len(list(folder.glob("not_finite_*"))) == 1 and not list(data.parent.glob("not_finite_*"))
    for name, array in checkpoint.read(checkpoint.path_of(folder, ITERATION))["model"].items():
        assert np.isfinite(array).all(), name
    _, events = trained(data, "--checkpoint", folder, "--resume", "--on-nan", "skip")
    assert events[-1]["skipped_updates"] == 2 and events[-1]["iterations"] == 2 * (COUNT // BATCH - 1)
    assert checkpoint.numbers(folder)[0] == 2 * COUNT // BATCH


@pytest.mark.parametrize("ranks", [1, 2])
def test_updates_that_are_left_out_are_told_counted_and_resumed_over_to_the_same_bits(data, ranks, capsys):
    folder = data.parent / "kept"
    flags = ("--on-nan", "skip", "--checkpoint", folder, "--checkpoint-every", "1", "--keep", "100")
    _, events = trained(data, *flags, ranks=ranks)
    skipped = [event for event in events if event["event"] == "not_finite"]
    assert [event["action"] for event in skipped] == ["skip"] * 2 and skipped[0]["iteration"] == ITERATION + 1
    assert POISON in skipped[0]["ranks"][0]["rows"]
    end = events[-1]
    assert (end["skipped_updates"], end["iterations"], end["samples_seen"]) == (2, 8, 2 * COUNT)
    total = 2 * COUNT // BATCH
    assert checkpoint.numbers(folder) == list(range(total, 0, -1))
    for iteration in range(ITERATION, total):
        for later in range(iteration + 1, total + 1):
            (folder / f"{later:06d}.npz").unlink(missing_ok=True)
        _, events = trained(data, *flags, "--resume", ranks=ranks)
        assert events[-1]["parameters_sha256"] == end["parameters_sha256"]


def test_a_line_says_which_update_was_left_out(data, capsys):
    train.main([*FLAGS[1:], "--ranks", "2", "--data", str(data), "--on-nan", "skip"])
    out = capsys.readouterr().out
    line = rf"\n  iteration {ITERATION + 1}: the gradient is not finite: .*; this update is left out \(1 so far\)\n"
    assert re.search(line, out)
    assert "left out  2 updates: gradients with NaN or infinity\n" in out


@pytest.mark.parametrize(("flags", "why"), [
    (("--update", "fused"), 'update="fused" sees a gradient that is not finite as it updates, too late'),
    (("--strategy", "ps"), "servers apply what the other workers push"),
])  # fmt: skip
def test_skipping_is_refused_where_it_is_too_late(data, flags, why, capsys):
    code, _ = trained(data, "--on-nan", "skip", *flags)
    assert code == 2 and f"npdp: error: --on-nan skip: {why}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics", "save", "nothing"])
def test_without_checkpoints_the_batch_is_beside_metrics_or_the_model_or_here(data, name, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    monkeypatch.chdir(here)
    files = () if name == "nothing" else (f"--{name}", str(there / "file.npz"))
    assert train.main([*FLAGS, "--ranks", "2", "--data", str(data), *files]) == 1
    kept = [len(list(folder.glob("not_finite_*"))) for folder in (here, there)]
    assert kept == [name == "nothing", name != "nothing"]


def test_a_batch_that_cannot_be_kept_is_said_and_the_run_ends_as_it_does_otherwise(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("npdp.app.not_finite.folder_of", lambda config: str(tmp_path / "nowhere"))
    assert trained(data)[0] == 1
    assert re.search("the batch is kept: none, .*nowhere.* cannot be written [(]No such file", capsys.readouterr().err)


def test_of_sparse_data_and_of_text_the_batch_is_kept_as_the_loader_gives_it(tmp_path, capsys):
    flags = ("--quiet", "--epochs", "1", "--transport", "threads", "--ranks", "2", "--global-batch-size", "4")
    lines = [f"{row % 2} 1:{'3e38' if row == 5 else '1'} {row % 7 + 2}:1" for row in range(20)]
    (tmp_path / "data.svm").write_text("\n".join(lines) + "\n")
    given = ("--data", str(tmp_path / "data.svm"), "--sparse", "--metrics", str(tmp_path / "run.jsonl"))
    assert train.main([*flags, *given, "--learning-rate", "1e30", "--test-fraction", "0"]) == 1
    for path in tmp_path.glob("not_finite_*"):
        with np.load(path) as kept:
            assert set(kept) == {"inputs_indptr", "inputs_indices", "inputs_values", "inputs_shape", "labels", "rows"}
            assert len(kept["rows"]) == kept["inputs_shape"][0] == len(kept["inputs_indptr"]) - 1
        path.unlink()
    (tmp_path / "book.txt").write_text("all work and no play " * 30)
    small = ("--layers", "1", "--heads", "1", "--width", "8", "--context", "8", "--learning-rate", "1e35")
    given = ("--data", str(tmp_path / "book.txt"), "--metrics", str(tmp_path / "text.jsonl"))
    assert train.main([*flags, *small, *given]) == 1
    assert list(tmp_path.glob("not_finite_*"))
    for path in tmp_path.glob("not_finite_*"):
        with np.load(path) as kept:
            np.testing.assert_array_equal(kept["inputs"][:, 1:], kept["labels"][:, :-1])
