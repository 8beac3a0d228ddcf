"""The settings of a training run, from its flags, and their checks before anything is loaded.

It imports neither NumPy nor MPI: flags are read first, so that BLAS threads can be set for a world of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npdp.app.flag_parser import flag_of, require_one_launcher
from npdp.app.interval import Interval
from npdp.app.model_choices import MODELS, TRAINING, choice_of
from npdp.app.paths import data_files, names_text, require_apart, require_replaceable, require_unread, require_writable
from npdp.app.strategy_choices import STRATEGIES
from npdp.app.train_flags import make_parser
from npdp.base.errors import InputError
from npdp.elastic.inject import Fault, require_processes

NOT_ELASTIC = {
    "update": "ranks share parameters there, and one that dies in the middle of an update leaves them half done",
    "transport": "threads of one process die together",
    "algorithm": "MPI's own all-reduce does not survive a death",
}
WORDS = ("digits", "synthetic", "python-docs")  # what --data takes that is no path
@dataclass(frozen=True)
class TrainConfig:
    """The flags of a training run, checked as far as is possible without the data."""

    data: str
    target: str | None
    test_fraction: float | None
    standardize: bool
    task: str
    sparse: bool
    tokenizer: str | None
    context: int | None
    model: str | None
    hidden: tuple[int, ...] | None
    layers: int | None
    heads: int | None
    width: int | None
    dropout: float | None
    positions: str | None
    epochs: int
    global_batch_size: int
    accumulate: int
    learning_rate: float
    lr_schedule: str
    lowest_learning_rate: float
    warm_up_epochs: float
    optimizer: str
    momentum: float | None
    weight_decay: float
    clip_norm: float | None
    evaluate_every: int | None
    sample_every: int | None
    seed: int
    dtype: str
    strategy: str
    servers: int
    staleness: float
    staleness_lr: str
    record_arrivals: str | None
    replay_arrivals: str | None
    local_iterations: int
    outer_momentum: float
    outer_learning_rate: float
    inject: tuple[Fault, ...]
    stall_warning_s: float
    stall_abort_s: float
    algorithm: str
    update: str
    transport: str
    ranks: int | None
    metrics: str | None
    save: str | None
    checkpoint: str | None
    checkpoint_every: Interval
    keep: int
    resume: bool
    elastic: bool
    spares: int
    fence_stalled: bool
    estimate: bool
    quiet: bool

    @property
    def model_flags(self) -> dict[str, Any]:
        """The flags of the model's own, by name."""
        return {name: getattr(self, name) for name in choice_of(self.model).flags}


def parse(arguments: Sequence[str] | None = None) -> TrainConfig:
    """Return the flags.

    Raises:
        InputError: what is wrong with them, in one line.
    """
    given = vars(make_parser().parse_args(arguments))
    config = TrainConfig(**_with_model(_with_strategy({**given, "inject": tuple(given["inject"])})))
    if config.metrics is not None:
        require_writable("--metrics", config.metrics)
    for flag, path in (("--save", config.save), ("--record-arrivals", config.record_arrivals)):
        if path is not None:
            require_replaceable(flag, path)
    names = ("metrics", "save", "record_arrivals", "replay_arrivals")
    require_apart(**{name: getattr(config, name) for name in names})
    _require_input_unwritten(config)
    _require_sense(config)
    if config.transport == "threads" and config.algorithm == "mpi":
        raise InputError("--algorithm mpi is MPI's own all-reduce; --transport threads has none")
    require_processes(config.inject, config.transport)
    require_one_launcher(config.transport)
    return config


def _require_input_unwritten(config: TrainConfig) -> None:
    """Raise InputError where the data, or the file of the model, would be written over."""
    data = [] if config.data in WORDS else data_files(config.data)
    model, colon, _ = (config.model or "").rpartition(":")
    for flag, read in (("--data", data), ("--model", [model] if colon else [])):
        require_unread(flag, read, metrics=config.metrics, save=config.save, record_arrivals=config.record_arrivals)


def _with_strategy(given: dict[str, Any]) -> dict[str, Any]:
    """Return the flags with those of strategies filled in; one of another strategy is refused."""
    mine = STRATEGIES[given["strategy"]].flags
    for strategy, choice in STRATEGIES.items():
        for name, default in choice.flags.items():
            if given[name] is None:
                given[name] = default
            elif name not in mine:
                flag = flag_of(name)
                raise InputError(f"{flag} is for --strategy {strategy}, this is --strategy {given['strategy']}")
    return given


def _with_model(given: dict[str, Any]) -> dict[str, Any]:
    """Return the flags with those of models, and of training, filled in; one of another model is refused."""
    if given["model"] is None and names_text(given["data"]):
        given["model"] = "gpt"
    name, mine = given["model"], choice_of(given["model"])
    for model, choice in MODELS.items():
        for flag in choice.flags:
            if flag in mine.flags:
                given[flag] = mine.flags[flag] if given[flag] is None else given[flag]
            elif given[flag] is not None:
                no_text = f" and --data {given['data']} is no text" if choice.takes == "text" else ""
                this = f"this is --model {name}" if name else f"no --model is given{no_text}"
                raise InputError(f"{flag_of(flag)} is for --model {model}, {this}")
    impossible = {*STRATEGIES[given["strategy"]].excludes, *(["clip_norm"] if given["update"] == "fused" else [])}
    for flag, default in {**TRAINING, **mine.training}.items():
        if given[flag] is None:
            given[flag] = TRAINING[flag] if flag in impossible else default
    return given


def _require_sense(config: TrainConfig) -> None:
    """Raise InputError where flags exclude each other."""
    if config.update == "fused" and config.clip_norm is not None:
        raise InputError("--update fused stores no gradient that --clip-norm could scale: use --update replicated")
    if config.resume and config.checkpoint is None:
        raise InputError("--resume: wanted --checkpoint DIR too, the directory to go on from")
    for flag, value in (("update", "fused"), ("transport", "threads"), ("algorithm", "mpi")):
        if config.elastic and getattr(config, flag) == value:
            raise InputError(f"--elastic: wanted another {flag_of(flag)}, got {value}: {NOT_ELASTIC[flag]}")
    if config.spares and not config.elastic:
        raise InputError("--spares: wanted --elastic too, spares take the places of ranks that die")
    if config.fence_stalled and not config.elastic:
        raise InputError("--fence-stalled kills a rank that the others live on without: it is for --elastic")
    if config.sample_every and choice_of(config.model).takes != "text":
        raise InputError("--sample-every is for models of text: --model gpt")
    for name, neutral in (("update", "auto"), ("clip_norm", None), ("evaluate_every", None), ("sample_every", None),
                          ("checkpoint", None), ("elastic", False), ("spares", 0)):  # fmt: skip
        why = STRATEGIES[config.strategy].excludes.get(name)
        if why is not None and getattr(config, name) != neutral:
            raise InputError(f"--strategy {config.strategy} {why}")
    for flag, path in (("--record-arrivals", config.record_arrivals), ("--replay-arrivals", config.replay_arrivals)):
        if path is not None and config.staleness == 0:
            raise InputError(f"{flag}: with --staleness 0 the order is always the same; it is for 1, 2, ... or inf")
        if path is not None and config.elastic:
            raise InputError(f"{flag}: a run that goes on through deaths cannot be repeated: leave out --elastic")
