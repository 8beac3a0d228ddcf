"""Making of a run's data, model and optimiser from its flags, without ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from npdp import nn, optim
from npdp.app import models
from npdp.app.config import TrainConfig
from npdp.app.model_choices import MODELS, choice_of
from npdp.base.errors import InputError
from npdp.data import SparseDataset, sources
from npdp.data.sources import DataSplit
from npdp.optim import learning_rates

MOMENTUM = 0.9  # where nobody says, and neither data nor parameters are sparse


def load_data(config: TrainConfig) -> DataSplit:
    """Return the data that the flags name; InputError where it cannot be used."""
    data = sources.load(
        config.data,
        target=config.target,
        test_fraction=config.test_fraction,
        seed=config.seed,
        standardize=config.standardize,
        dtype=config.dtype,
        task=_task(config),
        sparse=config.sparse,
        tokenizer=config.tokenizer,
        context=config.context,
    )
    if config.evaluate_every and data.test is None:
        raise InputError(f"--evaluate-every: {config.data} has no held-out part; --test-fraction gives one")
    return data


def _task(config: TrainConfig) -> str:
    """Return how targets are to be read; InputError where the flag says one thing and the model's name another."""
    of_model = choice_of(config.model).task
    if config.task == "auto":
        return of_model
    if of_model not in ("auto", config.task):
        raise InputError(f"--task {config.task}: --model {config.model} is for {of_model}")
    return config.task


def make_model(config: TrainConfig, data: DataSplit) -> tuple[str, nn.Module]:
    """Return a new model and its name; InputError where there is none of that name, or it does not fit the data."""
    sparse = isinstance(data.train, SparseDataset)
    name = config.model or models.default_name(data.classes, sparse)
    kind = "text" if data.tokenizer is not None else "sparse" if sparse else "table"
    if name in MODELS and MODELS[name].takes != kind:
        fitting = ", ".join(other for other, choice in MODELS.items() if choice.takes == kind)
        what = "a table" if kind == "table" else kind
        raise InputError(f"--model {name}: the data is {what}: wanted {fitting} or file.py:function")
    model = models.build(name, data.train.sample_shape[0], data.classes, config.model_flags, config.dtype)
    if name not in MODELS:
        models.require_fit(name, model, data.train, data.classes)
    return name, model


def sparse_part(data: DataSplit, model: nn.Module) -> str | None:
    """Return what is sparse, the data or, of a model, parameters that are trained; None where nothing is."""
    if isinstance(data.train, SparseDataset):
        return "data"
    rows = any(isinstance(p, nn.SparseParameter) and p.requires_grad for p in model.parameters())
    return "parameters" if rows else None


def with_momentum(config: TrainConfig, what_is_sparse: str | None) -> TrainConfig:
    """Return the flags with momentum filled in; raise InputError where rows without a gradient would be changed."""
    if config.optimizer != "sgd":  # Adam has none
        config = replace(config, momentum=None)
    elif config.momentum is None:
        config = replace(config, momentum=0.0 if what_is_sparse else MOMENTUM)
    if what_is_sparse and (config.optimizer != "sgd" or config.momentum or config.weight_decay):
        raise InputError(
            f"sparse {what_is_sparse}: only rows with a gradient are updated: wanted --optimizer sgd --momentum 0 "
            f"--weight-decay 0, got {config.optimizer}, {config.momentum or 0.0} and {config.weight_decay}"
        )
    return config


def make_optimizer(config: TrainConfig, model: nn.Module, iterations_per_epoch: int) -> optim.Optimizer:
    """Return a new optimiser of the parameters that are trained, with the learning rate's course over the run."""
    iterations = config.epochs * iterations_per_epoch
    lr = {
        "constant": learning_rates.constant(config.learning_rate),
        "step": learning_rates.step(config.learning_rate, every=-(-iterations // 3) or 1),
        "cosine": learning_rates.cosine(config.learning_rate, iterations, config.lowest_learning_rate),
    }[config.lr_schedule]
    if config.warm_up_epochs:
        lr = learning_rates.warm_up(lr, round(min(config.warm_up_epochs, config.epochs) * iterations_per_epoch))
    parameters = _groups(model, choice_of(config.model).takes == "text")
    if config.optimizer == "sgd":
        return optim.SGD(parameters, lr, momentum=config.momentum or 0.0, weight_decay=config.weight_decay)
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[config.optimizer]
    return kind(parameters, lr, weight_decay=config.weight_decay)


def _groups(model: nn.Module, of_text: bool) -> list[dict[str, Any]]:
    """Return the parameters to train; of a language model biases and norms, which are not to decay, apart."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not of_text:
        return [{"params": trained}]
    decay = [parameter for parameter in trained if parameter.ndim > 1]
    rest = [parameter for parameter in trained if parameter.ndim <= 1]
    return [{"params": decay}, {"params": rest, "weight_decay": 0.0}] if rest else [{"params": decay}]
