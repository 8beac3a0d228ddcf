"""Where parameters lie under a parameter server, and that nobody else may write them or look at a gradient."""

import math

import numpy as np
import pytest
from servers import served
from worlds import TwoDtypes, criterion, loader, mlp, parameters

import npdp
from npdp import kernels, optim


@pytest.mark.parametrize("staleness", [0, math.inf])
def test_the_parameters_keep_their_memory(staleness):
    """What is asked for later, shared too, lies elsewhere."""

    def program(way):
        model = TwoDtypes()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = way.wrap(model)
        later = [npdp.shared_empty(1000, "float32") for _ in range(3)]
        arrays = [p.data for p in model.parameters()] + later
        pairs = [(a, b) for number, a in enumerate(arrays) for b in arrays[:number]]
        return optimizer, any(np.shares_memory(a, b) for a, b in pairs)

    assert not any(overlap for _, overlap in served(program, 0, 2, staleness=staleness))


@pytest.mark.parametrize(
    ("servers", "options", "once"),
    [(1, {}, True), (2, {}, True), (0, {}, True), (1, {"staleness": 1}, False)],
    ids=str,
)
def test_parameters_lie_once_where_all_workers_wait_for_an_update(servers, options, once):
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        flat = way.wrap(model).strategy.flats[0]
        if npdp.rank() == 0:
            flat.data[0] = 7.0
        npdp.barrier()
        return optimizer, flat.data[0] == 7.0

    once = once and kernels.backend() == "c"
    assert [seen for _, seen in served(program, servers, 3, **options)] == [True, once, once]
    assert [seen for _, seen in served(program, servers, 3, memory=False, **options)] == [True, False, False]


def test_nobody_may_look_at_a_gradient_or_write_a_parameter():
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model = way.wrap(model)
        x, y = next(iter(loader(4)))
        criterion(model(x), y).backward()
        with pytest.raises(RuntimeError, match="parameter server"):
            _ = model.module[0].weight.grad
        with pytest.raises(RuntimeError, match="parameter server"):
            optim.clip_grad_norm_(model.parameters(), 1.0)
        with pytest.raises(ValueError, match="read-only"):
            model.module[0].weight.data[...] = 0
        with pytest.raises((ValueError, RuntimeError)):
            model.load_state_dict({name: np.zeros_like(p) for name, p in parameters(model).items()})
            optimizer.step()
            assert max(np.abs(p).max() for p in parameters(model).values()) < 0.2, "what was loaded had no effect"
            raise RuntimeError("it had")

    served(program, 1, 2)
