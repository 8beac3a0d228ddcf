"""The table of models that `--model` can name; a new model takes one line.

It imports neither NumPy nor MPI, as flags are read before these are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

NOTHING: Mapping[str, Any] = MappingProxyType({})


class ModelChoice(NamedTuple):
    """A model of the table.

    Attributes:
        made_by: `module:name` of a function of (features, classes, and its own flags by name) that returns a `Module`.
        help: what it is.
        takes: what data: "table", "sparse", or "text".
        task: how targets are to be read: "classification", "regression" or "auto".
        flags: its own flags, and what each is where not given.
        training: flags of training that have another value than `TRAINING`'s where not given.
    """

    made_by: str
    help: str
    takes: str = "table"
    task: str = "auto"
    flags: Mapping[str, Any] = NOTHING
    training: Mapping[str, Any] = NOTHING


TRAINING = {
    "epochs": 20, "global_batch_size": 64, "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0,
    "clip_norm": None, "warm_up_epochs": 0.0, "lowest_learning_rate": 0.0,
}  # fmt: skip
_OF_TEXT = {
    "epochs": 4, "global_batch_size": 16, "optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1,
    "clip_norm": 1.0, "warm_up_epochs": 0.2, "lowest_learning_rate": 1e-4,
}  # fmt: skip
_OF_ROWS = {"optimizer": "adam", "learning_rate": 0.01}
HIDDEN = {"hidden": (512, 512)}

MODELS = {
    "softmax": ModelChoice("npdp.app.models:softmax", "one linear layer, for classes", task="classification"),
    "linear": ModelChoice("npdp.app.models:softmax", "one linear layer, for numbers", task="regression"),
    "mlp": ModelChoice("npdp.app.models:mlp", "linear layers with ReLU between them", flags=HIDDEN),
    "cnn": ModelChoice("npdp.app.models:cnn", "LeNet-5's shape, for square images"),
    "gru": ModelChoice("npdp.app.models:gru", "a recurrent network, for square images, row by row", training=_OF_ROWS),
    "sparse_linear": ModelChoice("npdp.app.models:sparse_linear", "one linear layer, for sparse data", "sparse"),
    "gpt": ModelChoice("npdp.models.gpt:make", "a transformer, for text", "text", "classification", {
        "layers": 4, "heads": 4, "width": 128, "dropout": 0.0, "positions": "learned"}, _OF_TEXT),
}  # fmt: skip


def choice_of(name: str | None) -> ModelChoice:
    """Return the line of a model; a user's own may have the widths of an mlp, None has no flags of its own."""
    if name in MODELS:
        return MODELS[name]
    return ModelChoice("", "", flags=HIDDEN if name else NOTHING)
