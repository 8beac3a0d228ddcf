"""Any training program gives on P ranks what it gives on one: models, inputs, losses, ways to train, drawn together."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from worlds import CLASSES, FEATURES, Parallel, assert_close, loader, parameters, run

import npdp
from npdp import nn, optim
from npdp.autograd.operators import concatenate

INPUTS = {
    "the loader's": lambda model, x, **options: model(x, **options),
    "array": lambda model, x, **options: model(x.numpy(), **options),
    "by name": lambda model, x, **options: model(**options, x=npdp.Tensor(x.numpy())),
    "the loader's last": lambda model, x, **options: model(x.numpy(), beside=x[:, :4] / 2, batch=x, **options),
    "and a tensor": lambda model, x, **options: model(x, beside=npdp.Tensor(x.numpy()[:, :4] / 2), **options),
}
EACH = nn.CrossEntropyLoss(reduction="none")
LOSSES = {
    "mean": nn.CrossEntropyLoss(),
    "smooth": nn.CrossEntropyLoss(label_smoothing=0.1),
    "each": lambda outputs, labels: EACH(outputs, labels).mean(),
    "sum over count": lambda outputs, labels: EACH(outputs, labels).sum() / np.float64(len(labels)),
    "squares": lambda outputs, labels: (outputs * np.arange(1.0, 1 + CLASSES) - 1).pow(2).sum(axis=1).mean(),
}
OPTIMIZERS = {
    "SGD": lambda parameters: optim.SGD(parameters, lr=0.1),
    "Nesterov": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda parameters: optim.Adam(parameters, lr=optim.learning_rates.cosine(0.05, 6), eps=1e-3),
}
STRATEGIES = {
    "replicated": {},
    "small buckets": {"bucket_cap_mb": 1e-6},
    "fused": {"update": "fused"},
    "servers": {"strategy": npdp.ParameterServer(servers=0)},
}


class Drawn(nn.Module):
    """A body of which a parameter is used twice, experts of which a rank may use none, and a scale."""

    def __init__(self, dropout):
        self.first, self.again = nn.Linear(FEATURES, 4, dtype=np.float64), nn.Linear(4, 4, dtype=np.float64)
        self.experts = nn.ModuleList([nn.Linear(4, CLASSES, dtype=np.float64) for _ in range(3)])
        self.scale, self.dropout = nn.Parameter(np.array(0.7)), nn.Dropout(dropout)

    def forward(self, x, beside=None, again=True, batch=None):
        x = x if isinstance(x, npdp.Tensor) else npdp.Tensor(x)
        hidden = self.dropout(self.first(x).tanh())
        if again:
            hidden = self.again(self.again(hidden).tanh())
        if beside is not None:
            hidden = hidden + self.dropout(self.again(beside))
        chosen = np.digitize(x.numpy()[:, 0], [-0.5, 0.5])
        rows = [np.flatnonzero(chosen == number) for number in range(3)]
        parts = [expert(hidden[mine]) for expert, mine in zip(self.experts, rows) if len(mine)]
        if not parts:  # of no samples: no expert is used
            return hidden[:, :CLASSES]
        return concatenate(*parts, axis=0)[np.argsort(np.concatenate(rows))]


def trained(drawn, way):
    """Return what a program of these choices ends with; every third iteration leaves a layer out."""
    npdp.manual_seed(1)
    model = Drawn(drawn["dropout"])
    optimizer = OPTIMIZERS[drawn["optimizer"]](model.parameters())
    wrapped = way.wrap(model)
    pieces = drawn["accumulate"] if drawn["inputs"].startswith("the loader's") else 1
    batches = loader(drawn["batch_size"], drawn["count"], accumulate=pieces)
    for number, (x, labels) in enumerate([batch for _ in range(2) for batch in batches][: 6 * pieces]):
        if number % pieces == 0 and drawn["zeroes"]:
            optimizer.zero_grad()
        outputs = INPUTS[drawn["inputs"]](wrapped, x, again=number // pieces % 3 != 1)
        loss = LOSSES[drawn["loss"]](outputs, labels) * model.scale + (model.again.weight**2).sum() * 0.01
        loss.backward()
        if number % pieces == pieces - 1:
            if drawn["clips"] and drawn["strategy"] in ("replicated", "small buckets"):
                optim.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    return parameters(model)


PROGRAMS = st.fixed_dictionaries(
    {
        "inputs": st.sampled_from(list(INPUTS)),
        "loss": st.sampled_from(list(LOSSES)),
        "optimizer": st.sampled_from(list(OPTIMIZERS)),
        "strategy": st.sampled_from(list(STRATEGIES)),
        "count": st.integers(1, 14),
        "batch_size": st.integers(1, 9),
        "accumulate": st.integers(1, 3),
        "dropout": st.sampled_from([0.0, 0.4]),
        "zeroes": st.booleans(),
        "clips": st.booleans(),
    }
)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # a sum over no samples, by their number
@settings(max_examples=40, deadline=None)
@given(PROGRAMS, st.integers(2, 5))
def test_any_program_ends_on_several_ranks_with_what_it_ends_with_on_one(drawn, world_size):
    way = Parallel(**STRATEGIES[drawn["strategy"]])
    wanted = run(1, trained, drawn, way)[0]
    assume(all(np.abs(values).max() < 1e3 for values in wanted.values()))  # what diverges makes much of rounding
    for rank, got in enumerate(run(world_size, trained, drawn, way)):
        assert_close(got, wanted, f"rank {rank} of {world_size}", 1e-9)
