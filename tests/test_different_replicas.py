"""Models that are not wrapped alike are refused on every rank: other parameters, another order, other settings."""

import numpy as np
import pytest
from worlds import mlp, run

import npdp
from npdp import nn, optim
from npdp.base.errors import InputError

WRAPS = {
    "replicated": nn.DataParallel,
    "fused": lambda model: nn.DataParallel(model, update="fused"),
    "servers": lambda model: nn.DataParallel(model, strategy=npdp.ParameterServer(0)),
    "local SGD": lambda model: nn.DataParallel(model, strategy=npdp.LocalSGD(2)),
    "horovod": lambda model: npdp.DistributedOptimizer(optim.SGD(model.parameters())),
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("sharing", [(0, 1), (0, 1, 2), (1, 2), (0, 2)], ids=str)
def test_ranks_on_threads_that_have_the_same_model_are_told_so(wrap, sharing):
    shared = mlp()
    optim.SGD(shared.parameters())

    def program():
        own = mlp()
        optimizer = optim.SGD(own.parameters())
        with pytest.raises(ValueError, match="ranks on threads have the same model: each needs one of its own"):
            WRAPS[wrap](shared if npdp.rank() in sharing else own)
        return optimizer

    run(1 + max(sharing), program)


def test_wrapping_twice_is_refused():
    def program():
        model = mlp()
        nn.DataParallel(model)
        for again in (model, nn.Sequential(model, nn.Linear(3, 1, dtype=np.float64)), model[0]):
            with pytest.raises(ValueError, match="is wrapped already, or has a DistributedOptimizer; wrap it once"):
                nn.DataParallel(again)

    run(2, program)
    run(1, program)


def bias(layer, count, dtype):
    layer.bias = nn.Parameter(np.zeros(count, dtype))


def frozen(model, number):
    for parameter in model[number].parameters():
        parameter.requires_grad = False
    return model


@pytest.mark.parametrize(
    ("wrap", "text"),
    [
        (lambda model, odd: nn.DataParallel(model, update="fused" if odd else "replicated"),
         r"Fused\(\), on_nan None, rank 0 has AllReduce\("),
        (lambda model, odd: nn.DataParallel(model, bucket_cap_mb=1 + odd), "bucket_cap_mb=2.* has .*bucket_cap_mb=1"),
        (lambda model, odd: nn.DataParallel(model, strategy=npdp.LocalSGD(2, 0.5, 1 - odd / 2)), "outer_lr=0.5"),
        (lambda model, odd: nn.DataParallel(frozen(model, odd)), "0.weight, rank 0 has 1.weight"),
    ],
    ids=["update", "buckets", "local SGD", "frozen"],
)
def test_ranks_that_train_otherwise_are_refused_when_they_wrap(wrap, text):
    def program():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        with pytest.raises(InputError, match=f"trained parameters differ between ranks: rank 1 has .*{text}"):
            wrap(model, npdp.rank() == 1)

    run(3, program)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: bias(m[2], 4, "f8"), r"rank 2 has 2\.bias \(4,\) float64, rank 0 has 2\.bias \(3,\) float64"),
        (lambda m: bias(m[0], 4, "f4"), r"rank 2 has 0\.bias \(4,\) float32, rank 0 has 0\.bias \(4,\) float64"),
        (lambda m: setattr(m, "more", nn.Linear(1, 1)), r"rank 2 has more\.bias \(1,\) float32, rank 0 has nothing"),
        (lambda m: setattr(m[2], "bias", None), r"rank 2 has 2\.weight \(3, 4\) float64, rank 0 has 2\.bias"),
    ],
    ids=["shape", "dtype", "one more", "one less"],
)
def test_models_that_differ_between_ranks_are_refused_by_name_on_every_rank(change, text):
    def program():
        model = mlp()
        if npdp.rank() == 2:
            change(model)
        for wrap in (nn.DataParallel, lambda m: npdp.broadcast_parameters(m.named_parameters())):
            with pytest.raises(InputError, match="parameters differ between ranks: " + text):
                wrap(model)

    run(3, program)


def test_a_parameter_that_lies_in_another_order_on_a_rank_is_refused():
    """Gradients are summed as they lie: those of a matrix in C order with those of one in Fortran order."""

    def program():
        model = mlp()
        if npdp.rank() == 1:
            model[0].weight = nn.Parameter(np.asfortranarray(model[0].weight.data))
        nn.DataParallel(model)

    with pytest.raises(InputError, match=r"rank 1 has 0\.weight in Fortran order, rank 0 has 0\.weight in C order"):
        run(2, program)


@pytest.mark.parametrize("way", [dict(), dict(update="fused"), dict(strategy=npdp.LocalSGD(1)),
                                 dict(strategy=npdp.ParameterServer(0))], ids=str)  # fmt: skip
def test_an_optimiser_with_another_order_on_a_rank_is_refused(way):
    """Gradients are summed as they lie, in the order of the optimiser that laid them."""

    def program():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        parameters = list(model.parameters())
        optim.SGD(parameters[::-1] if npdp.rank() == 1 else parameters)
        with pytest.raises(InputError, match="orders .* differ .* rank 1 has 0.bias as number 2, rank 0 has 0.bias"):
            nn.DataParallel(model, **way)

    run(2, program)
