"""Layers, losses, optimisers and whole training loops against PyTorch: tightly in float64, loosely in float32."""

from itertools import pairwise, product

import numpy as np
import pytest

from npdp import nn, optim
from npdp.autograd import Tensor, operators
from npdp.data import ArrayDataset, DataLoader

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")

TOLERANCE = {"float64": dict(rtol=1e-12, atol=1e-14), "float32": dict(rtol=2e-5, atol=2e-6)}
STEPS = 25
both_dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def random(*shape, dtype="float64", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def theirs_of(array, requires_grad=True):
    return torch.tensor(array, requires_grad=requires_grad)


def assert_same(ours, theirs, dtype):
    got, wanted = np.asarray(ours), theirs.detach().numpy()
    assert got.dtype == wanted.dtype == dtype
    np.testing.assert_allclose(got, wanted, **TOLERANCE[dtype])


def compare(ours, theirs, *arrays, dtype):
    """Compare results and gradients of two functions, contracted with the same cotangent."""
    xs, ts = [Tensor(a.copy(), requires_grad=True) for a in arrays], [theirs_of(a) for a in arrays]
    y, t = ours(*xs), theirs(*ts)
    assert_same(y, t, dtype)
    cotangent = random(*t.shape, dtype=dtype, seed=9)
    y.backward(cotangent)
    t.backward(torch.tensor(cotangent))
    for x, other in zip(xs, ts, strict=True):
        assert_same(x.grad, other.grad, dtype)


def twin_linear(n_in, n_out, dtype, bias=True):
    """Return Linear of npdp and of PyTorch with the same values."""
    ours = nn.Linear(n_in, n_out, bias, dtype=dtype, generator=np.random.default_rng([n_in, n_out]))
    theirs = torch.nn.Linear(n_in, n_out, bias, dtype=getattr(torch, dtype))
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    return ours, theirs


def twin_models(dtype, *sizes):
    pairs = [twin_linear(a, b, dtype) for a, b in pairwise(sizes)]
    ours, theirs = [pairs[0][0]], [pairs[0][1]]
    for mine, other in pairs[1:]:
        ours += [nn.Tanh(), mine]
        theirs += [torch.nn.Tanh(), other]
    return nn.Sequential(*ours), torch.nn.Sequential(*theirs)


def assert_same_parameters(ours, theirs, dtype, gradients=False):
    named = dict(theirs.named_parameters())
    assert list(named) == [name for name, _ in ours.named_parameters()]
    for name, parameter in ours.named_parameters():
        assert_same(parameter.grad if gradients else parameter.data,
                    named[name].grad if gradients else named[name], dtype)  # fmt: skip


# Layers
@both_dtypes
@pytest.mark.parametrize(("ours", "theirs"), [
    (nn.ReLU(), torch.nn.ReLU()), (nn.Tanh(), torch.nn.Tanh()), (nn.Sigmoid(), torch.nn.Sigmoid()),
    (nn.Flatten(), torch.nn.Flatten()), (nn.Dropout(0.5).eval(), torch.nn.Dropout(0.5).eval()),
    (lambda x: x.softmax(-1), lambda x: x.softmax(-1)), (lambda x: x.log_softmax(1), lambda x: x.log_softmax(1)),
    (lambda x: x.logsumexp(1), lambda x: x.logsumexp(1)), (lambda x: x.max(axis=2), lambda x: x.amax(2)),
    (lambda x: x.mean((0, 2)), lambda x: x.mean((0, 2))), (lambda x: x.clip(-0.5, 0.5), lambda x: x.clip(-0.5, 0.5)),
    (lambda x: operators.matmul(x, x.transpose(0, 2, 1)), lambda x: x @ x.transpose(1, 2)),
])  # fmt: skip
def test_layers_give_pytorchs_values_and_gradients(ours, theirs, dtype):
    compare(ours, theirs, random(6, 4, 5, dtype=dtype), dtype=dtype)


@both_dtypes
@pytest.mark.parametrize("of_both", [
    lambda nn: nn.LeakyReLU(), lambda nn: nn.LeakyReLU(0.3), lambda nn: nn.Softmax(1), lambda nn: nn.LogSoftmax(dim=-1),
    lambda nn: nn.Identity(), lambda nn: nn.functional.relu, lambda nn: nn.functional.tanh,
    lambda nn: nn.functional.sigmoid, lambda nn: lambda x: nn.functional.softmax(x, dim=1),
    lambda nn: lambda x: nn.functional.log_softmax(x, 0), lambda nn: lambda x: nn.functional.leaky_relu(x),
    lambda nn: lambda x: nn.functional.leaky_relu(x, 0.2),
])  # fmt: skip
def test_layers_and_functions_of_the_same_name_are_pytorchs(of_both, dtype):
    compare(of_both(nn), of_both(torch.nn), random(6, 4, 5, dtype=dtype), dtype=dtype)


@both_dtypes
@pytest.mark.parametrize("method", [
    lambda x: x.view(6, 20), lambda x: x.view(-1, 5), lambda x: x.view((4, 30)), lambda x: x.view_as(x.view(120)),
    lambda x: x.flatten(), lambda x: x.flatten(1), lambda x: x.flatten(0, 1), lambda x: x.flatten(start_dim=-2),
    lambda x: x.unsqueeze(0), lambda x: x.unsqueeze(-1), lambda x: x.unsqueeze(2).squeeze(2),
    lambda x: x.unsqueeze(0).unsqueeze(3).squeeze(), lambda x: x.squeeze(1), lambda x: x.permute(2, 0, 1),
    lambda x: x.permute((1, -1, 0)), lambda x: x.flatten(1).t(), lambda x: x[0, 0].t(), lambda x: x.pow(2),
    lambda x: x.clone(), lambda x: x.clamp(-0.5, 0.5), lambda x: x.clamp(min=0.1), lambda x: x.clamp(max=0.1),
    lambda x: x.transpose(0, 1), lambda x: x.transpose(1, -1), lambda x: x[0].transpose(0, 1),
    lambda x: x.max(2)[0], lambda x: x.max(dim=0).values, lambda x: x.min(-1, keepdim=True).values, lambda x: x.max(),
])  # fmt: skip
def test_methods_of_the_same_name_are_pytorchs(method, dtype):
    compare(method, method, random(6, 4, 5, dtype=dtype), dtype=dtype)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_largest_and_where_they_are_come_as_in_pytorch(rows):
    """Also of two rows, which a result without places would be taken apart into."""
    x = random(rows, 4, dtype="float32")
    for find in (lambda x: x.max(1), lambda x: x.min(dim=0), lambda x: x.max(1, True)):
        (values, indices), (wanted, places) = find(Tensor(x)), find(torch.tensor(x))
        np.testing.assert_array_equal(values.data, wanted.numpy())
        np.testing.assert_array_equal(indices.data, places.numpy())
    np.testing.assert_array_equal(Tensor(x).max((0, 1)).data, x.max())


@both_dtypes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 5), (5,), (2, 3, 5)])
def test_linear_gives_pytorchs_values_and_gradients(shape, bias, dtype):
    ours, theirs = twin_linear(5, 3, dtype, bias)
    compare(ours, theirs, random(*shape, dtype=dtype), dtype=dtype)
    assert_same_parameters(ours, theirs, dtype, gradients=True)


def test_state_goes_to_pytorch_and_back():
    ours, theirs = twin_models("float32", 4, 3, 2)
    fresh = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    fresh.load_state_dict(theirs.state_dict())
    assert_same_parameters(fresh, theirs, "float32")
    assert_same_parameters(ours, theirs, "float32")


# Losses
@both_dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(8, 3), (5,), (2, 3, 4)])
def test_mse_is_pytorchs(shape, reduction, dtype):
    compare(nn.MSELoss(reduction), torch.nn.MSELoss(reduction=reduction), random(*shape, dtype=dtype),
            random(*shape, dtype=dtype, seed=1), dtype=dtype)  # fmt: skip


@both_dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(8, 3), (5,), (2, 3, 4)])
def test_l1_is_pytorchs(shape, reduction, dtype):
    compare(nn.L1Loss(reduction), torch.nn.L1Loss(reduction=reduction), random(*shape, dtype=dtype),
            random(*shape, dtype=dtype, seed=1), dtype=dtype)  # fmt: skip


@both_dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_behind_log_softmax_is_pytorchs(reduction, dtype):
    labels = np.array([0, 3, 1, 1, 2, 0, 3, 2])
    compare(lambda x: nn.NLLLoss(reduction=reduction)(nn.LogSoftmax(1)(x), labels),
            lambda x: torch.nn.NLLLoss(reduction=reduction)(x.log_softmax(1), torch.tensor(labels)),
            random(8, 4, dtype=dtype) * 3, dtype=dtype)  # fmt: skip


@both_dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_bce_is_pytorchs(reduction, dtype):
    logits, targets = random(8, 3, dtype=dtype) * 5, (random(8, 3, dtype=dtype, seed=1) > 0).astype(dtype) * 0.9
    logits[0] = 0
    compare(nn.BCEWithLogitsLoss(reduction), torch.nn.BCEWithLogitsLoss(reduction=reduction), logits, targets,
            dtype=dtype)  # fmt: skip


@both_dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("integers", "classes"), [(np.int64, 4), (np.int64, 100), (np.int32, 4), (np.uint8, 4)])
def test_cross_entropy_is_pytorchs(reduction, smoothing, integers, classes, dtype):
    labels = np.array([0, 3, 1, 1, 2, 0, 3, 2])
    ours, theirs = (module(reduction=reduction, label_smoothing=smoothing)
                    for module in (nn.CrossEntropyLoss, torch.nn.CrossEntropyLoss))  # fmt: skip
    compare(lambda x: ours(x, labels.astype(integers)), lambda x: theirs(x, torch.tensor(labels)),
            random(8, classes, dtype=dtype) * 3, dtype=dtype)  # fmt: skip


# Optimisers
def train_twins(make_ours, make_theirs, dtype, clip=None):
    """Train both for STEPS steps on the same batches, one layer without gradient now and then; compare at the end."""
    ours, theirs = twin_models(dtype, 5, 20, 3)
    mine, other = make_ours(ours.parameters()), make_theirs(theirs.parameters())
    x, labels = random(STEPS, 8, 5, dtype=dtype), np.random.default_rng(1).integers(0, 3, (STEPS, 8))
    for k in range(STEPS):
        mine.zero_grad()
        other.zero_grad()
        nn.CrossEntropyLoss()(ours(x[k]), labels[k]).backward()
        torch.nn.CrossEntropyLoss()(theirs(torch.tensor(x[k])), torch.tensor(labels[k])).backward()
        if k % 7 == 3:
            ours[2].bias.grad = theirs[2].bias.grad = None
        if clip:
            assert_same(np.array(optim.clip_grad_norm_(ours.parameters(), clip), dtype),
                        torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip), dtype)  # fmt: skip
            assert_same_gradients_that_exist(ours, theirs, dtype)
        mine.step()
        other.step()
    assert_same_parameters(ours, theirs, dtype)


def assert_same_gradients_that_exist(ours, theirs, dtype):
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            assert_same(mine.grad, other.grad, dtype)


@both_dtypes
@pytest.mark.parametrize(
    "flags",
    [
        dict(momentum=m, dampening=d, nesterov=n, weight_decay=w)
        for m, d, n, w in product((0.0, 0.9), (0.0, 0.3), (False, True), (0.0, 0.1))
        if not n or (m and not d)
    ],
    ids=lambda flags: "-".join(f"{k}={v}" for k, v in flags.items() if v) or "plain",
)
def test_sgd_is_pytorchs(flags, dtype):
    train_twins(lambda p: optim.SGD(p, lr=0.2, **flags), lambda p: torch.optim.SGD(p, lr=0.2, **flags), dtype)


@both_dtypes
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("flags", [{}, dict(weight_decay=0.2), dict(betas=(0.5, 0.9), eps=1e-3, lr=0.05)], ids=str)
def test_adam_and_adamw_are_pytorchs(name, flags, dtype):
    train_twins(lambda p: getattr(optim, name)(p, **flags), lambda p: getattr(torch.optim, name)(p, **flags), dtype)


@both_dtypes
@pytest.mark.parametrize("clip", [0.05, 0.5, 100.0])
def test_clipping_is_pytorchs(clip, dtype):
    train_twins(lambda p: optim.SGD(p, lr=0.5, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
                dtype, clip)  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs"), [
    (optim.learning_rates.step(0.2, every=6, factor=0.3),
     lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=6, gamma=0.3)),
    (optim.learning_rates.cosine(0.2, iterations=20, lowest=0.01),
     lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=0.01)),
], ids=["step", "cosine"])  # fmt: skip
def test_learning_rates_are_pytorchs(ours, theirs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler, wanted = theirs(optimizer), []
    for _ in range(20):
        wanted.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [ours(i) for i in range(20)] == pytest.approx(wanted, rel=1e-12)


# The whole loop
def regression(count=1000):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 10)).astype(np.float32)
    y = x @ rng.standard_normal((10, 1)) + 0.5 + 0.1 * rng.standard_normal((count, 1))
    return x, y.astype(np.float32)


def test_ten_epochs_of_linear_regression_agree_with_pytorch_in_every_iteration():
    x, y = regression()
    model, twin = twin_linear(10, 1, "float32")
    criterion, their_criterion = nn.MSELoss(), torch.nn.MSELoss()
    optimizer, their_optimizer = optim.SGD(model.parameters(), lr=0.01), torch.optim.SGD(twin.parameters(), lr=0.01)
    dataloader = DataLoader(ArrayDataset(x, y), batch_size=32, shuffle=True)
    ours, theirs, rows_seen = [], [], set()
    for _ in range(10):
        for inputs, labels in dataloader:
            loss = criterion(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ours.append(loss.item())

            loss = their_criterion(twin(torch.from_numpy(inputs.data)), torch.from_numpy(labels.data))
            their_optimizer.zero_grad()
            loss.backward()
            their_optimizer.step()
            theirs.append(loss.item())
            rows_seen.add(inputs.data[0].tobytes())
    assert len(ours) == 10 * 32 and len(rows_seen) > 200
    assert theirs[-1] < 0.1 < theirs[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert_same_parameters(model, twin, "float32")
