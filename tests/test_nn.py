"""Modules, layers and losses: names, state, dropout's masks, first values, and errors."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest

import npdp
from npdp import nn, optim
from npdp.autograd import Batch, Tensor
from npdp.autograd.tensor import result


class Model(nn.Module):
    """Two layers that share a weight, one of them inside another module."""

    def __init__(self):
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.first = nn.Linear(30, 30)  # wide: its weight may lie in memory as (in, out)
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(30, 2))
        self.again = self.first
        self.body[1].tied = self.first.weight

    def forward(self, x):
        return self.body(self.again(self.first(x))) * self.scale


class Holder(nn.Module):
    """A tree of dropouts."""

    def __init__(self):
        self.a = nn.Dropout(seed=1)
        self.rest = nn.Sequential(nn.Linear(2, 2), nn.Dropout(seed=1), nn.Sequential(nn.Dropout(seed=1)))


# Modules
def test_parameters_are_named_by_their_path_and_a_shared_one_comes_once():
    model = Model()
    names = [name for name, _ in model.named_parameters()]
    assert names == ["scale", "first.weight", "first.bias", "body.1.weight", "body.1.bias"]
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()}) == 5
    assert [name for name, _ in model.named_modules()] == ["", "first", "body", "body.0", "body.1", "again"]


def test_a_module_prints_what_it_is_made_of():
    text = repr(nn.Sequential(nn.Linear(2, 3, bias=False), nn.Dropout(0.25), nn.Sequential(nn.ReLU())))
    assert text == (
        "Sequential(\n  (0): Linear(2, 3, bias=False)\n  (1): Dropout(p=0.25)\n"
        "  (2): Sequential(\n    (0): ReLU()\n  )\n)"
    )
    assert repr(nn.MSELoss("sum")) == "MSELoss(reduction='sum')"


def test_train_and_eval_reach_all_modules():
    model = Holder()
    assert all(module.training for module in model.modules())
    assert model.eval() is model and not any(module.training for module in model.modules())
    assert model.train() is model and model.rest[2][0].training


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)


def test_zero_grad_forgets_all_gradients():
    model = Model()
    model(np.ones((2, 30), np.float32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_sequential_applies_its_modules_in_order():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Sigmoid())
    x = Tensor(np.ones((4, 2), np.float32))
    assert len(model) == 4 and isinstance(model[1], nn.Tanh)
    np.testing.assert_array_equal(model(x).data, model[0](x).tanh().sigmoid().data)
    assert nn.Sequential()(x) is x


def test_a_module_put_in_the_place_of_another_is_used():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    setattr(model, "1", nn.Tanh())
    assert [type(module) for module in model] == [nn.Linear, nn.Tanh]
    x = np.ones((1, 2), np.float32)
    assert np.array_equal(model(x).data, np.tanh(model[0](x).data))


def test_a_copy_of_a_model_trains_by_itself():
    model = nn.Linear(3, 20)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = twin.weight.data.copy()
        mine = optim.SGD(twin.parameters(), lr=0.1)
        twin(np.ones((2, 3), np.float32)).sum().backward()
        mine.step()
        assert not np.array_equal(twin.weight.data, before)
        assert np.array_equal(model.weight.data, before)
    assert optimizer.parameters[0].grad is None


def test_parallel_names_are_found_where_pytorch_has_them():
    assert nn.DataParallel.__name__ == "DataParallel"
    with pytest.raises(AttributeError, match="has no attribute 'Conv2d'"):
        _ = nn.Conv2d


# State
def test_state_dict_goes_out_and_in_unchanged():
    source, target = Model(), Model()
    state = source.state_dict()
    assert list(state) == [name for name, _ in source.named_parameters()]
    assert all(array.flags.c_contiguous for array in state.values())
    layouts = [parameter.data.strides for parameter in target.parameters()]
    target.load_state_dict(state)
    assert layouts == [parameter.data.strides for parameter in target.parameters()]
    for name, parameter in target.named_parameters():
        np.testing.assert_array_equal(parameter.data, state[name])
        assert not np.shares_memory(parameter.data, state[name])


def test_state_dict_is_a_copy():
    model = nn.Linear(2, 2)
    state = model.state_dict()
    model.load_state_dict({"weight": np.zeros((2, 2)), "bias": [0, 0]})
    assert state["weight"].any() and not model.weight.data.any()
    assert model.weight.dtype == np.float32


def test_a_state_dict_can_be_copied_and_pickled():
    state = nn.Linear(3, 2).state_dict()
    for twin in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert all(np.array_equal(twin[name], state[name]) for name in state)


def test_a_state_dict_of_pytorch_has_a_shared_layer_under_each_of_its_paths():
    shared = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    model.load_state_dict({"0.weight": np.eye(2), "2.weight": np.eye(2)})
    assert np.array_equal(shared.weight.data, np.eye(2)) and list(model.state_dict()) == ["0.weight"]
    with pytest.raises(ValueError, match="missing: 0.weight"):
        model.load_state_dict({"2.weight": np.eye(2)})


@pytest.mark.parametrize("state", ["model.npz", [("weight", np.zeros((2, 2)))], None])
def test_what_is_no_state_is_refused_with_what_gives_one(state):
    with pytest.raises(TypeError, match=rf"wanted arrays by name, as `np.load\(path\)`.* got {type(state).__name__}"):
        nn.Linear(2, 2).load_state_dict(state)


def test_load_state_dict_that_is_not_strict_takes_what_there_is_and_says_what_is_missing():
    model = nn.Linear(2, 2)
    before = model.bias.data.copy()
    mismatch = model.load_state_dict({"weight": np.eye(2), "head": np.zeros(3)}, strict=False)
    assert (mismatch.missing_keys, mismatch.unexpected_keys) == (["bias"], ["head"])
    np.testing.assert_array_equal(model.weight.data, np.eye(2))
    np.testing.assert_array_equal(model.bias.data, before)
    with pytest.raises(ValueError, match=r"weight: wanted shape \(2, 2\), got \(3,\)$"):
        model.load_state_dict({"weight": np.zeros(3)}, strict=False)
    assert model.load_state_dict(model.state_dict()) == ([], [])


def test_load_state_dict_finds_a_shared_parameter_under_any_of_its_paths():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    assert model.load_state_dict({"1.weight": np.eye(2)}, strict=False) == ([], [])
    np.testing.assert_array_equal(model[0].weight.data, np.eye(2))
    model.load_state_dict({"1.weight": np.eye(2), "0.weight": 2 * np.eye(2)})
    np.testing.assert_array_equal(model[1].weight.data, 2 * np.eye(2))
    with pytest.raises(ValueError, match="0.weight: wanted shape"):
        model.load_state_dict({"1.weight": np.zeros(9)}, strict=False)


def test_load_state_dict_names_all_faults_and_changes_nothing():
    model = Model()
    before = model.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    del state["scale"]
    state |= {"extra": np.zeros(1), "first.bias": np.zeros(4), "body.1.bias": np.array(["a", "b"])}
    with pytest.raises(ValueError) as raised:
        model.load_state_dict(state)
    message = str(raised.value)
    for part in (
        "load_state_dict of Model:", "missing: scale", "not in this model: extra",
        "first.bias: wanted shape (30,), got (4,)", "body.1.bias: wanted numbers that fit float32, got <U1",
    ):  # fmt: skip
        assert part in message
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


# Linear
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_draws_its_first_values_within_bounds_from_the_generator(dtype):
    layers = [nn.Linear(100, 50, dtype=dtype, generator=np.random.default_rng(s)) for s in (3, 3, 4)]
    for name in ("weight", "bias"):
        first, same, other = (getattr(layer, name).data for layer in layers)
        assert first.dtype == dtype and np.abs(first).max() <= 0.1
        assert np.abs(first).max() > 0.09 and abs(first.mean()) < 0.02
        assert abs(first.std() - 0.1 / np.sqrt(3)) < 0.01
        np.testing.assert_array_equal(first, same)
        assert (first != other).any()
    assert layers[0].weight.shape == (50, 100)


def test_the_seed_makes_the_first_values():
    npdp.manual_seed(5)
    first = nn.Linear(3, 2).state_dict()
    second = nn.Linear(3, 2).state_dict()
    npdp.manual_seed(5)
    again = nn.Linear(3, 2).state_dict()
    np.testing.assert_array_equal(first["weight"], again["weight"])
    assert (first["weight"] != second["weight"]).any()


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (0, 3), (0, 4, 3), (2, 0, 3)])
def test_linear_works_on_the_last_axis(shape):
    layer = nn.Linear(3, 2, dtype=np.float64)
    x = Tensor(np.arange(float(np.prod(shape))).reshape(shape), requires_grad=True)
    y = layer(x)
    np.testing.assert_allclose(y.data, x.data @ layer.weight.data.T + layer.bias.data)
    y.sum().backward()
    np.testing.assert_allclose(x.grad, np.broadcast_to(layer.weight.data.sum(0), shape))
    assert layer.weight.grad.shape == (2, 3)
    np.testing.assert_allclose(layer.bias.grad, np.full(2, np.prod(shape[:-1])))


def test_linear_without_bias_has_one_parameter():
    layer = nn.Linear(3, 2, bias=False)
    assert [name for name, _ in layer.named_parameters()] == ["weight"] and layer.bias is None
    np.testing.assert_array_equal(layer(np.zeros((2, 3), np.float32)).data, np.zeros((2, 2)))


def test_flatten_keeps_rows():
    assert nn.Flatten()(np.zeros((4, 2, 3))).shape == (4, 6)
    assert nn.Flatten()(np.zeros((0, 2, 3))).shape == (0, 6)
    assert nn.Flatten()(np.zeros(4)).shape == (4, 1)


# Dropout
def batch(rows, iteration=0, shape=(7,), global_rows=20):
    """Return ones as the loader gives them: the rows [start, stop) of a global batch."""
    start, stop = rows
    whole = Batch(stop - start, iteration, (start, global_rows))
    return result(np.ones((stop - start, *shape), np.float32), whole)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (9,), (3, 5)])
@pytest.mark.parametrize("cuts", [[10], [1, 2, 3], [0, 7, 7, 19, 20]])
def test_dropout_masks_a_row_alike_however_the_batch_is_split(shape, cuts):
    layer = nn.Dropout(0.4, seed=3)
    whole = layer(batch((0, 20), 5, shape)).data
    ends = [0, *cuts, 20]
    parts = [layer(batch(rows, 5, shape)).data for rows in pairwise(ends)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("turned", [lambda x: x.T, lambda x: x[:3], lambda x: x.reshape(1, 4, 7)],
                         ids=["turned", "some rows", "an axis before"])  # fmt: skip
def test_dropout_refuses_rows_that_it_cannot_place_in_a_batch_that_ranks_share(turned):
    layer = nn.Dropout(0.5, seed=3)
    x = result(np.ones((4, 7), np.float32), Batch(4, 0, (4, 9), parts=2))
    rows = turned(x)
    assert layer(x[:0]).shape == (0, 7)
    with pytest.raises(ValueError, match="must begin with the axis of the batch; this rank has 4 samples"):
        layer(rows)
    assert layer(turned(result(x.data, Batch(4, 0, (0, 4))))).shape == rows.shape  # on one rank all is here


def test_dropout_masks_alike_where_samples_have_several_rows():
    layer = nn.Dropout(0.5, seed=3)
    whole = layer(batch((0, 20), 1, (4, 6)).reshape(80, 6)).data
    parts = [layer(batch(rows, 1, (4, 6)).reshape(-1, 6)).data for rows in ((0, 7), (7, 20))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_a_part_p_and_scales_the_rest(p):
    x = np.ones((1000, 50), np.float32)
    y = nn.Dropout(p, seed=1)(x).data
    assert abs((y == 0).mean() - p) < 0.01
    assert y.dtype == np.float32 and set(np.unique(y)) <= {np.float32(0), np.float32(1 / (1 - p))}
    rows, columns = (y == 0).mean(axis=1), (y == 0).mean(axis=0)
    assert abs(rows - p).max() < 0.35 and abs(columns - p).max() < 0.1


def test_dropout_passes_the_gradient_of_what_it_keeps():
    x = Tensor(np.ones((10, 4)), requires_grad=True)
    y = nn.Dropout(0.5, seed=1)(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)


def test_dropout_differs_by_seed_iteration_row_and_layer():
    model, x = Holder(), batch((0, 20))
    layers = [model.a, model.rest[1], model.rest[2][0]]
    assert [layer.layer_number for layer in layers] == [0, 1, 2]
    masks = [layer(x).data for layer in layers]
    masks += [model.a(batch((0, 20), 1)).data, model.a(batch((20, 40))).data, nn.Dropout(0.5, seed=2)(x).data]
    for i, mask in enumerate(masks):
        assert not any((mask == other).all() for other in masks[:i])
    assert len(np.unique(masks[0], axis=0)) > 10
    np.testing.assert_array_equal(masks[0], Holder().a(x).data)


def test_dropout_takes_the_seed_of_the_rank_where_it_has_none():
    layer, x = nn.Dropout(), batch((0, 20))
    npdp.manual_seed(8)
    y = layer(x).data
    np.testing.assert_array_equal(y, nn.Dropout(seed=8)(x).data)
    npdp.manual_seed(9)
    assert (layer(x).data != y).any()


def test_dropout_without_a_loader_counts_its_calls():
    layer, x = nn.Dropout(seed=1), np.ones((20, 7), np.float32)
    assert (layer(x).data != layer(x).data).any()


def test_a_dropout_that_is_used_twice_has_two_masks():
    drop = nn.Dropout(0.5, seed=1)
    x = result(np.ones((4, 8)), Batch(4, 3, (0, 4)))
    first, second = drop(x).data, drop(x).data
    assert not np.array_equal(first, second)
    again = nn.Dropout(0.5, seed=1)
    assert np.array_equal(again(x).data, first) and np.array_equal(again(x).data, second)


def test_dropout_does_nothing_in_evaluation():
    x = Tensor(np.ones((3, 2)))
    assert nn.Dropout(0.5).eval()(x) is x
    assert nn.Dropout(0.5)(batch((3, 3))).shape == (0, 7)


# Losses
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (nn.MSELoss, np.zeros((0, 3))), (nn.BCEWithLogitsLoss, np.zeros((0, 3))),
        (nn.CrossEntropyLoss, np.zeros(0, np.int64)), (nn.L1Loss, np.zeros((0, 3))),
        (nn.NLLLoss, np.zeros(0, np.int64)),
    ],
)  # fmt: skip
def test_a_loss_over_no_samples_is_zero_with_zero_gradients(loss, labels, dtype, reduction):
    layer = nn.Linear(2, 3, dtype=dtype)
    labels = labels if labels.dtype == np.int64 else labels.astype(dtype)
    value = loss(reduction)(layer(np.zeros((0, 2), dtype)), labels).sum()
    assert value.item() == 0.0 and value.dtype == dtype
    value.backward()
    for parameter in layer.parameters():
        assert parameter.grad.dtype == dtype and not parameter.grad.any()


@pytest.mark.parametrize(("loss", "targets", "said"), [
    (nn.NLLLoss(), np.array([0, 3]), r"NLLLoss: labels must be in \[0, 3\), got 3"),
    (nn.NLLLoss(), np.array([0]), r"NLLLoss: wanted logits \(rows, classes\)"),
    (nn.L1Loss(), np.zeros((2, 1)), r"L1Loss: outputs have shape \(2, 3\), targets \(2, 1\)"),
])  # fmt: skip
def test_a_loss_refuses_what_does_not_fit_by_its_own_name(loss, targets, said):
    with pytest.raises(ValueError, match=said):
        loss(Tensor(np.zeros((2, 3), np.float32)), targets)


def test_a_loss_knows_the_batch_that_it_was_computed_from():
    x = batch((4, 9))
    loss = nn.MSELoss()(nn.Linear(7, 1)(x), np.zeros((5, 1), np.float32))
    assert loss.batch is x.batch and (loss.batch.count, loss.batch.first_row, loss.batch.global_count) == (5, 4, 20)


def test_the_position_in_the_global_batch_is_found_out_once_and_only_if_asked():
    asked = []
    batch = Batch(3, 0, lambda count: asked.append(count) or (6, 10))
    assert asked == []
    assert (batch.first_row, batch.global_count, batch.position, asked) == (6, 10, (6, 10), [3])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_binary_loss_has_its_slope_also_at_zero(reduction):
    logits = Tensor(np.zeros(2), requires_grad=True)
    nn.BCEWithLogitsLoss(reduction)(logits, np.array([0.0, 1.0])).sum().backward()
    np.testing.assert_allclose(logits.grad, np.array([0.5, -0.5]) / (2 if reduction == "mean" else 1))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.MSELoss, np.arange(6.0).reshape(2, 3)), (nn.BCEWithLogitsLoss, np.arange(6.0).reshape(2, 3) / 6),
        (nn.CrossEntropyLoss, np.array([0, 2])),
        (lambda reduction: nn.CrossEntropyLoss(reduction, label_smoothing=0.3), np.array([0, 2])),
    ],
    ids=["mse", "bce", "cross entropy", "label smoothing"],
)  # fmt: skip
def test_the_reductions_of_a_loss_agree(loss, targets):
    found = []
    for reduction, scale in (("mean", targets.size), ("sum", 1), ("none", 1)):
        x = Tensor(np.array([[0.3, -1, 2], [0, 1.5, -0.2]]), requires_grad=True)
        each = loss(reduction)(x, targets)
        assert each.shape == (targets.shape if reduction == "none" else ())
        (each.sum() * scale).backward()
        found.append((each.data.sum() * scale, x.grad))
    for total, gradient in found[1:]:
        np.testing.assert_allclose(total, found[0][0], rtol=1e-12)
        np.testing.assert_allclose(gradient, found[0][1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("classes", [3, 64, 65, 200])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_that_of_log_softmax_for_few_classes_and_many(classes, smoothing):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 7)
    whole, parts = (nn.Parameter(np.random.default_rng(1).standard_normal((7, classes))) for _ in range(2))
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)(whole, labels)
    expected = nn.CrossEntropyLoss("none", label_smoothing=smoothing)(parts, labels).mean()
    loss.backward()
    expected.backward()
    np.testing.assert_allclose(loss.data, expected.data, rtol=1e-12)
    np.testing.assert_allclose(whole.grad, parts.grad, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", [nn.MSELoss, nn.L1Loss, nn.BCEWithLogitsLoss])
def test_targets_in_a_list_are_as_exact_as_in_an_array(loss, reduction):
    outputs, targets = Tensor(np.array([1.0, 0.5, -2.0])), [0.1, 0.2, 0.3]
    assert loss(reduction)(outputs, targets).item() == loss(reduction)(outputs, np.array(targets)).item()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_class_that_is_ruled_out_by_minus_infinity_has_no_part_in_the_loss(reduction):
    logits = nn.Parameter(np.array([[-np.inf, 0, 0], [2, -np.inf, -np.inf]]))
    loss = nn.CrossEntropyLoss(reduction)(logits, np.array([2, 0]))
    loss.sum().backward()
    share = 0.5 if reduction == "mean" else 1
    np.testing.assert_allclose(loss.sum().data, share * np.log(2))
    np.testing.assert_allclose(logits.grad, [[0, share / 2, -share / 2], [0, 0, 0]])


# Errors
def logits(*shape):
    return Tensor(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "Linear: in_features must be a whole number, at least 1, got 0", lambda: nn.Linear(0, 2)),
        (ValueError, r"Linear: wanted an input of shape \(..., 3\), got \(2, 4\)",
         lambda: nn.Linear(3, 1)(logits(2, 4))),
        (ValueError, r"wanted an input of shape \(..., 3\), got \(\)", lambda: nn.Linear(3, 1)(1.0)),
        (ValueError, r"p must be in \[0, 1\), got 1", lambda: nn.Dropout(1)),
        (ValueError, r"p must be in \[0, 1\), got nan", lambda: nn.Dropout(float("nan"))),
        (ValueError, "MSELoss: reduction must be mean, sum or none, got 'avg'", lambda: nn.MSELoss("avg")),
        (ValueError, r"^CrossEntropyLoss: reduction must be mean, sum or none, got Tensor\(\[1., 2.\]\)",
         lambda: nn.CrossEntropyLoss(Tensor([1.0, 2.0]))),  # in PyTorch that would be weights of classes
        (ValueError, r"MSELoss: outputs have shape \(2, 1\), targets \(2,\)",
         lambda: nn.MSELoss()(logits(2, 1), np.zeros(2))),
        (ValueError, r"MSELoss: outputs have shape \(2, 1\), targets \(2,\)",
         lambda: nn.MSELoss("sum")(logits(2, 1), np.zeros(2))),
        (ValueError, r"outputs have shape \(2, 1\), targets \(2,\)",
         lambda: nn.functional.mse_loss(logits(2, 1), np.zeros(2))),
        (ValueError, "BCEWithLogitsLoss: outputs have shape", lambda: nn.BCEWithLogitsLoss()(logits(2), logits(3))),
        (ValueError, r"label_smoothing must be in \[0, 1\], got 2", lambda: nn.CrossEntropyLoss(label_smoothing=2)),
        (ValueError, r"got shapes \(2, 3\) and \(3,\)", lambda: nn.CrossEntropyLoss()(logits(2, 3), [0, 1, 2])),
        (ValueError, r"got shapes \(3,\) and \(3,\)", lambda: nn.CrossEntropyLoss()(logits(3), [0, 1, 2])),
        (TypeError, "labels must be integers, got float32", lambda: nn.CrossEntropyLoss()(logits(2, 3), [0.0, 1.0])),
        (TypeError, "logits must be floats, got int64", lambda: nn.CrossEntropyLoss()(np.zeros((2, 3), int), [0, 1])),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got 3",
         lambda: nn.CrossEntropyLoss()(logits(2, 3), [0, 3])),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got -1",
         lambda: nn.CrossEntropyLoss()(logits(2, 3), [-1, 0])),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got 255",
         lambda: nn.CrossEntropyLoss()(logits(2, 3), np.array([0, 255], np.uint8))),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got 18446744073709551615",
         lambda: nn.CrossEntropyLoss()(logits(2, 3), np.array([0, 2**64 - 1], np.uint64))),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got -1",
         lambda: nn.CrossEntropyLoss("none")(logits(2, 3), [-1, 0])),
    ],
)  # fmt: skip
def test_mistakes_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("shape", "labels"),
    [((3, 4), [0, 1]), ((3, 4), [0]), ((3, 4), 0), ((3, 4), [[0], [1], [2]]), ((3,), [0, 1, 2]), ((3, 0), [0, 0, 0]),
     ((0, 0), []), ((2, 3, 4), [0, 1])],
    ids=str,
)  # fmt: skip
def test_cross_entropy_looks_at_shapes_before_it_looks_at_labels(shape, labels):
    labels = np.array(labels, np.int64)
    for loss in (nn.functional.cross_entropy, nn.CrossEntropyLoss(), nn.CrossEntropyLoss("none")):
        with pytest.raises(ValueError, match=r"^CrossEntropyLoss: wanted logits \(rows, classes\)"):
            loss(Tensor(np.zeros(shape, np.float32)), labels)


def test_labels_that_are_no_integers_are_not_rounded():
    for loss in (nn.functional.cross_entropy, nn.CrossEntropyLoss(), nn.CrossEntropyLoss("none")):
        with pytest.raises(TypeError, match="^CrossEntropyLoss: labels must be integers, got float32"):
            loss(Tensor(np.zeros((2, 4), np.float32)), np.array([0.9, 1.2], np.float32))
