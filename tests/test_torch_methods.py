"""Tensor methods of PyTorch's: in place, new tensors, other numbers; as PyTorch's where it is installed."""

import numpy as np
import pytest

import npdp

X = np.random.default_rng(0).uniform(0.2, 0.9, (3, 4))
Y = np.random.default_rng(1).uniform(1.2, 2.9, (3, 4))
MASK = X > 0.5
WHOLE = np.array([[1, 0, 2, 2], [0, 1, 1, 3], [3, 3, 0, 1]])

IN_PLACE = [
    ("add_", (Y,), {}), ("add_", (Y,), dict(alpha=-0.5)), ("sub_", (Y,), {}), ("sub_", (Y,), dict(alpha=2)),
    ("mul_", (Y,), {}), ("div_", (Y,), {}), ("pow_", (2,), {}), ("neg_", (), {}), ("abs_", (), {}), ("exp_", (), {}),
    ("sqrt_", (), {}), ("square_", (), {}), ("clamp_", (0.3, 0.5), {}), ("clamp_", (), dict(min=0.4)),
    ("zero_", (), {}),
    ("fill_", (2.5,), {}), ("copy_", (Y,), {}), ("masked_fill_", (MASK, 0.0), {}), ("tril_", (), {}),
    ("triu_", (1,), {}),
    ("lerp_", (Y, 0.1), {}), ("addcmul_", (Y, Y), dict(value=0.1)), ("addcdiv_", (Y, Y), dict(value=-0.1)),
    ("relu_", (), {}), ("sigmoid_", (), {}), ("tanh_", (), {}), ("floor_", (), {}), ("round_", (), {}),
    ("scatter_", (1, WHOLE[:, :2], 7.0), {}), ("scatter_", (0, WHOLE[:1] % 3, Y[:1]), {}),
]  # fmt: skip
FROM = [
    ("new_zeros", (2, 3), {}), ("new_ones", ((2,),), {}), ("new_full", ((2,), 3.5), {}), ("new_tensor", ([1, 2],), {}),
    ("expand_as", (np.zeros((2, 3, 4)),), {}), ("view_as", (np.zeros((4, 3)),), {}), ("type_as", (WHOLE,), {}),
    ("float", (), {}), ("double", (), {}), ("long", (), {}), ("int", (), {}), ("bool", (), {}), ("byte", (), {}),
    ("to", ("cpu",), {}), ("to", (WHOLE,), {}), ("cpu", (), {}), ("contiguous", (), {}), ("dim", (), {}),
    ("numel", (), {}),
    ("ndimension", (), {}), ("element_size", (), {}), ("nelement", (), {}), ("is_floating_point", (), {}),
    ("is_contiguous", (), {}), ("__floordiv__", (0.3,), {}), ("__mod__", (0.3,), {}), ("__mod__", (Y,), {}),
]  # fmt: skip


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")


def arguments(module, given):
    return [module.tensor(x) if isinstance(x, np.ndarray) else x for x in given]


@pytest.mark.parametrize(("name", "given", "options"), IN_PLACE)
def test_a_method_in_place_writes_what_pytorch_s_writes(name, given, options, torch):
    ours, theirs = npdp.tensor(X), torch.tensor(X)
    array = ours.array
    assert getattr(ours, name)(*arguments(npdp, given), **options) is ours and ours.array is array
    getattr(theirs, name)(*arguments(torch, given), **options)
    np.testing.assert_allclose(array, theirs.numpy(), rtol=1e-14)


@pytest.mark.parametrize(("name", "given", "options"), [each for each in IN_PLACE if each[0] not in ("copy_", "zero_")])
def test_a_method_in_place_is_refused_where_it_would_be_recorded(name, given, options):
    x = npdp.tensor(X, requires_grad=True)
    for tensor in (x, x * 1):
        with pytest.raises(RuntimeError, match="a change in place is not recorded"):
            getattr(tensor, name)(*arguments(npdp, given), **options)
    y = x * x
    with npdp.no_grad():
        getattr(x, name)(*arguments(npdp, given), **options)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


@pytest.mark.parametrize(("name", "given", "options"), FROM)
def test_a_method_gives_what_pytorch_s_gives(name, given, options, torch):
    ours = getattr(npdp.tensor(X), name)(*arguments(npdp, given), **options)
    theirs = getattr(torch.tensor(X), name)(*arguments(torch, given), **options)
    if not isinstance(theirs, torch.Tensor):
        assert ours == theirs
        return
    assert f"torch.{ours.dtype}" == str(theirs.dtype) and ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-14)


@pytest.mark.parametrize(("name", "given", "moments"), [
    ("normal_", (2.0, 0.5), (2.0, 0.5)), ("normal_", (), (0.0, 1.0)), ("uniform_", (-1, 3), (1.0, 4 / 12**0.5)),
    ("uniform_", (), (0.5, 12**-0.5)), ("bernoulli_", (0.3,), (0.3, 0.21**0.5)), ("exponential_", (), (1.0, 1.0)),
    ("random_", (0, 10), (4.5, 8.25**0.5)),
])  # fmt: skip
def test_draws_in_place_are_this_rank_s_and_have_their_moments(name, given, moments):
    found = []
    for _ in range(2):
        npdp.manual_seed(5)
        found.append(getattr(npdp.empty(20_000), name)(*given))
    assert npdp.equal(*found) and abs(found[0].mean().item() - moments[0]) < 0.05
    assert abs(found[0].std().item() - moments[1]) < 0.05
    drawn = getattr(npdp.empty(5), name)(*given, generator=npdp.Generator().manual_seed(1))
    assert npdp.equal(drawn, getattr(npdp.empty(5), name)(*given, generator=npdp.Generator().manual_seed(1)))


def test_a_leaf_that_is_trained_is_changed_where_it_is_inside_no_grad_alone():
    weights = npdp.randn(3, 2) / 2
    assert weights.requires_grad_() is weights and weights.is_leaf and weights.requires_grad
    (weights * weights).sum().backward()
    same, before = weights, weights.numpy().copy()
    with npdp.no_grad():
        weights -= 0.5 * weights.grad
        weights *= 2
    assert weights is same and weights.requires_grad
    np.testing.assert_allclose(weights.array, 0 * before, atol=1e-6)
    x = npdp.ones(2)
    y = x
    with npdp.no_grad():
        y += 1  # of what is not trained: a new tensor, as outside
    assert x.tolist() == [1, 1] and y.tolist() == [2, 2]
    with pytest.raises(TypeError, match="a gradient needs float32 or float64"):
        npdp.arange(3).requires_grad_()


def test_other_numbers_pass_gradients_between_floats_alone():
    x = npdp.tensor(X, requires_grad=True)
    x.float().to(npdp.float64).sum().backward()
    assert (x.grad == 1).all() and x.grad.dtype == np.float64
    assert not x.to(npdp.int64).requires_grad and x.to(npdp.float64) is x and x.to("cpu", copy=True) is not x
    with pytest.raises(TypeError, match="npdp computes in float32 and float64"):
        x.to(np.float16)


def test_largest_and_sorted_say_where_they_were():
    values, indices = npdp.tensor([[3.0, 1.0, 2.0]], requires_grad=True).topk(2)
    assert values.tolist() == [[3, 2]] and indices.tolist() == [[0, 2]] and values.requires_grad
    assert npdp.tensor([1, 0, 1, 0]).sort(descending=True).indices.tolist() == [0, 2, 1, 3]  # stable
    with pytest.raises(ValueError, match=r"topk: wanted k in 0 \.\. 3, the extent of axis -1, got 4"):
        npdp.ones(2, 3).topk(4)
