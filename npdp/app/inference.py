"""Inference with a saved model: its scores on data, and its predictions. Both return the text to print."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from npdp.app import saved_model
from npdp.app.evaluation import blocks, of_text
from npdp.app.evaluation import evaluate as score
from npdp.app.model_choices import MODELS, choice_of
from npdp.app.saved_model import SavedModel
from npdp.autograd import Tensor, no_grad, operators
from npdp.autograd.tensor import Array
from npdp.base.errors import InputError
from npdp.data import ArrayDataset, SparseDataset, SparseRows, sources
from npdp.data.formats import csv, npz
from npdp.data.sources import DataSplit
from npdp.data.targets import refuse_infinite
from npdp.data.text import from_json
from npdp.parallel.agreement import agree
from npdp.parallel.world import init

NO_ANSWER = "{} has no answer but NaN: are its parameters finite?"
Say = Callable[[str], None]  # what tells a line that is no result


def unsaid(line: str) -> None:
    """Tell nobody."""


def evaluate(
    model: str, data: str, target: str | None, part: str, test_fraction: float | None,
    seed: int, trust: bool = False, say: Say = unsaid,
) -> str:  # fmt: skip
    """Return the scores of a saved model on the test part, the training part, or all of a data set; collective.

    Raises:
        InputError: the model or the data cannot be used, or does not fit the other; on all ranks alike.
    """
    world = init()
    saved = agree(world, lambda: saved_model.load(model, trust))
    chosen = agree(world, lambda: _parts(saved, model, data, target, part, test_fraction, seed, say))
    classes, counts = saved.description["classes"], [len(dataset) for dataset in chosen]
    scores = [score(world, saved.model, dataset, classes) for dataset in chosen]
    loss = np.average([result.loss for result in scores], weights=counts)
    if np.isnan(loss):
        raise InputError(f"{data}: {NO_ANSWER.format(model)}")
    accuracy = ""
    if classes is not None:
        accuracy = f", accuracy {np.average([result.accuracy or 0.0 for result in scores], weights=counts):.4f}"
    bits = [of_text(result, dataset).get("test_bits_per_byte", 0.0) for result, dataset in zip(scores, chosen)]
    per_byte = f", {np.average(bits, weights=counts):.4f} bits per byte" if any(bits) else ""
    return f"{sum(counts)} samples: loss {loss:.4f}{accuracy}{per_byte}"


def _parts(
    saved: SavedModel, model: str, data: str, target: str | None, part: str, test_fraction: float | None,
    seed: int, say: Say,
) -> list[ArrayDataset]:
    """Return the parts of a data set that a saved model is to be scored on."""
    classes = saved.description["classes"]
    if _takes(saved) == "text":
        return _texts(saved, data, part, test_fraction)
    split = sources.load(
        data, target=target, test_fraction=test_fraction, seed=seed, task="regression" if classes is None
        else "classification", dtype="float64",  # as in training, scaling must not cost digits
        sparse=_reads_sparse(saved, data), trained=saved.columns,
    )  # fmt: skip
    _require_table(split, data)
    for note in split.notes:
        say(note)
    if classes is not None and (split.classes or 0) > classes:
        raise InputError(f"{data}: {split.classes} classes, but {model} was trained on {classes}")
    return [_fitting(saved, dataset, data) for dataset in _chosen(split, data, part)]


def _texts(saved: SavedModel, data: str, part: str, test_fraction: float | None) -> list[ArrayDataset]:
    """Return the parts of a text that a saved language model is to be scored on."""
    tokenizer, context = from_json(saved.description["tokenizer"]), saved.description["features"]
    split = sources.load(data, test_fraction=test_fraction, tokenizer=tokenizer, context=context)
    return _chosen(split, data, part)


def _chosen(split: DataSplit, data: str, part: str) -> list[ArrayDataset]:
    parts = {"train": split.train, "test": split.test}
    chosen = [dataset for name, dataset in parts.items() if dataset is not None and part in (name, "all")]
    if not chosen:
        raise InputError(f"{data}: no {part} part; --part train or --test-fraction gives samples")
    return chosen


def predict(
    model: str, samples: str, target: str | None, probabilities: bool, trust: bool = False, say: Say = unsaid
) -> str:
    """Return a saved model's answers, a line a sample: its class or number, or the classes' probabilities; collective.

    Raises:
        InputError: the model or the samples cannot be used, or do not fit each other; on all ranks alike.
    """
    return agree(init(), lambda: _answers(model, samples, target, probabilities, trust, say))


def _answers(model: str, samples: str, target: str | None, probabilities: bool, trust: bool, say: Say) -> str:
    saved = saved_model.load(model, trust)
    classes, labels = saved.description["classes"], saved.description.get("labels")
    if _takes(saved) == "text":
        raise InputError(f"{model} is a language model: `npdp generate` goes on with a text by it")
    if probabilities and classes is None:
        raise InputError(f"--probabilities: {model} gives numbers, not classes")
    dataset = _fitting(saved, _samples(saved, samples, target, say), samples)
    lines: list[str] = []
    with no_grad():
        for inputs, _ in blocks(dataset, 0, len(dataset)):
            outputs: Tensor = saved.model(inputs)
            if np.isnan(outputs.data).any():  # which would pass for the first class
                raise InputError(f"{samples}: {NO_ANSWER.format(model)}")
            if probabilities:
                rows = operators.softmax(outputs, axis=1).data
                lines += [",".join(f"{value:.6g}" for value in row) for row in rows]
            else:
                answers = outputs.data[:, 0] if classes is None else outputs.data.argmax(axis=1)
                lines += [f"{value:.9g}" for value in (answers if labels is None else np.take(labels, answers))]
    return "\n".join(lines)


def _takes(saved: SavedModel) -> str:
    """Return what data a saved model takes; one of the user's own was trained on text where it has a tokenizer."""
    return "text" if saved.description.get("tokenizer") else choice_of(saved.description["model"]).takes


def _require_table(split: DataSplit, source: str) -> None:
    if split.tokenizer is not None:
        raise InputError(f"{source}: the model takes tables of features, got text")


def _reads_sparse(saved: SavedModel, path: str) -> bool:
    """Return whether a file is to be read as sparse data; an .npz says itself what it is."""
    return _takes(saved) == "sparse" and os.path.splitext(path)[1].lower() in (".svm", ".libsvm")


def _fitting(saved: SavedModel, dataset: ArrayDataset, source: str) -> ArrayDataset:
    """Return samples as the model was trained on them: their kind and number of features, scaling, dtype."""
    x, y = dataset.take(slice(0, len(dataset)))
    name, wanted, dtype = (saved.description[key] for key in ("model", "features", "dtype"))
    sparse = isinstance(x, SparseRows)
    if name in MODELS and (_takes(saved) == "sparse") != sparse:
        kinds = ("a table of features", "sparse features")
        raise InputError(f"{source}: the model takes {kinds[not sparse]}, got {kinds[sparse]}")
    if not isinstance(x, SparseRows):
        x = _scaled(saved, x, source)
        return ArrayDataset(x, y.astype(x.dtype) if saved.description["classes"] is None else y)
    if x.shape[1] > wanted:
        raise InputError(f"{source}: the model takes {wanted} features, got {x.shape[1]}")
    return SparseDataset((x.indptr, x.indices, x.values.astype(dtype), wanted), y)  # the last ones may not occur


def _samples(saved: SavedModel, path: str, target: str | None, say: Say) -> ArrayDataset:
    """Return the samples in a file; what labels there are do not count."""
    if _takes(saved) == "sparse":
        sparse = _reads_sparse(saved, path)
        return sources.load(path, target=target, test_fraction=0, task="regression", sparse=sparse).train
    x = _features(saved, path, target, say)
    return ArrayDataset(x, np.zeros(len(x)))


def _scaled(saved: SavedModel, x: Array, source: str) -> Array:
    """Return features as the model was trained on them."""
    wanted = saved.description["features"]
    if x.shape[1:] != (wanted,):
        raise InputError(f"{source}: the model takes {wanted} features, got {x.shape[1] if x.ndim == 2 else x.shape}")
    refuse_infinite(x, lambda row: f"{source}, row {row}", saved.description["dtype"], "feature")
    if saved.scaling is not None:
        mean, deviation = saved.scaling
        x = (x - mean) / deviation
    return x.astype(saved.description["dtype"], copy=False)


def _features(saved: SavedModel, path: str, target: str | None, say: Say) -> Array:
    """Return the features in a file, (N, D); of a .csv by name, or all columns without the target if it is there."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".npy", ".npz"):
        if target is not None:
            raise InputError(f"--target: only a .csv has columns, got {path}")
        return _from_numpy(path)
    if suffix != ".csv":
        data = sources.load(path, target=target, test_fraction=0, dtype="float64")
        _require_table(data, path)
        return data.train.take(slice(0, len(data.train)))[0]
    x, notes = csv.read_features(path, target, saved.columns, saved.description["features"])
    for note in notes:
        say(note)
    return x


def _from_numpy(path: str) -> Array:
    """Return the features in an .npy file, or those named x in an .npz."""
    if path.lower().endswith(".npy"):
        x: Array = np.array(npz.mapped(path))
    else:
        with npz.arrays_of(path) as arrays:
            if "x" not in arrays.names:
                raise InputError(f"{path}: expected the array 'x', found {', '.join(sorted(arrays.names)) or 'none'}")
            x = arrays.read("x")
    if x.ndim < 2 or not x.size:
        raise InputError(f"{path}: expected an array (samples, features), got shape {x.shape}")
    return x.reshape(len(x), -1).astype(np.float64, copy=False)
