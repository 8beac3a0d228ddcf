"""Every registered operation: its gradient against finite differences, its dtype, its place in the graph."""

from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import npdp.nn.losses  # noqa: F401  (registers its own operation)
from npdp.autograd import Tensor, no_grad, operators
from npdp.autograd.gradcheck import GradientError, gradcheck
from npdp.autograd.operation import OPERATIONS, operation
from npdp.nn import functional

# One way to use an operation: shapes or arrays (these get no gradient), options, and where inputs are drawn from
Case = namedtuple("Case", "inputs options domain", defaults=({}, "any"))

ANY = ((3,), (2, 3), (2, 1, 3), (), (0, 2))
PAIRS = (((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2, 2)), ((4, 1, 2), (3, 1)), ((0, 2), (2,)))
MATRICES = (
    ((2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,)), ((5, 2, 3), (5, 3, 2)), ((5, 2, 3), (3, 2)),
    ((2, 3), (5, 3, 2)), ((2, 1, 2, 3), (4, 3, 2)), ((3,), (5, 3, 2)), ((5, 2, 3), (3,)), ((0, 3), (3, 2)),
)  # fmt: skip
AXES = (None, 0, -1, 1, (0, 2), (-1, 0), (0, 1, 2))
INDICES = (
    0, -1, slice(1, None), slice(None, None, -2), (slice(None), 1), (..., 0), None, (0, slice(None), 1),
    np.array([0, 2, 0, 0]), [2, 2], (np.array([0, 1, 1]), np.array([1, 1, 1])), (slice(None), np.array([1, 1])),
    np.arange(12).reshape(3, 2, 2) % 3 == 0, np.array([True, False, True]),
)  # fmt: skip
MASK = np.arange(6).reshape(2, 3) % 2 == 0
LABELS = np.array([1, 0, 2, 1])


def unary(domain="any"):
    return [Case([shape], {}, domain) for shape in ANY]


def binary(domain="any"):
    return [Case(list(shapes), {}, domain) for shapes in PAIRS]


def along_axes(domain="any", axes=AXES):
    return [Case([(2, 3, 2)], dict(axis=a, keepdims=k), domain) for a in axes for k in (False, True)]


OF_A_NUMBER = [Case([()], dict(axis=axis)) for axis in (0, -1)]  # NumPy and PyTorch take these axes of it
SOFT = [Case([(2, 3, 2)], dict(axis=axis)) for axis in (0, 1, -1)] + [Case([(4,)])]
CASES = {
    "add": binary(), "sub": binary(), "mul": binary(), "neg": unary(),
    "div": binary("away from 0"),
    "pow": [*binary("positive"), Case([(3,), np.array(2.0)], {}, "away from 0"),
            Case([(3,), np.array(-3.0)], {}, "away from 0"), Case([(2, 3), np.array([0.0, 1.0, 0.5])], {}, "positive")],
    "matmul": [Case(list(shapes)) for shapes in MATRICES],
    "exp": unary(), "log": unary("positive"), "sqrt": unary("positive"), "abs": unary("away from 0"),
    "tanh": unary(), "sigmoid": unary(), "relu": unary("away from 0"),
    "clip": [Case([(3, 4)], options, "distinct") for options in
             (dict(low=-0.53, high=0.77), dict(low=0.03), dict(high=0.03))],
    "where": [Case([MASK, (2, 3), (2, 3)]), Case([MASK, (3,), (2, 1)]), Case([MASK[0], (), (2, 3)])],
    "sum": [*along_axes(), *OF_A_NUMBER],
    "mean": [*along_axes(), *OF_A_NUMBER, Case([(0, 2)]), Case([(0, 2)], dict(axis=0))],
    "max": [*along_axes("distinct"), *OF_A_NUMBER], "min": [*along_axes("distinct"), *OF_A_NUMBER],
    "pick": [Case([(3, 2)], dict(indices=np.array([[2, 0]]), axis=0)),
             Case([(3, 1, 2)], dict(indices=np.array([0, 1, 1]).reshape(3, 1, 1), axis=-1))],
    "logsumexp": [*along_axes(axes=(*AXES[1:], None)), *OF_A_NUMBER], "softmax": SOFT, "log_softmax": SOFT,
    "reshape": [Case([(2, 6)], dict(shape=s)) for s in ((12,), (3, -1), (2, 2, 3))] + [Case([()], dict(shape=(1, 1)))],
    "transpose": [Case([(2, 3, 2)], dict(axes=a)) for a in (None, (2, 0, 1), (1, -1, 0), (0, 1, 2))],
    "index": [Case([(3, 2, 2)], dict(at=at)) for at in INDICES],
    "concatenate": [Case([(2, 3), (1, 3), (0, 3)]), Case([(2, 3), (2, 1)], dict(axis=-1)), Case([(3,)])],
    "stack": [Case([(2, 3), (2, 3)], dict(axis=a)) for a in (0, 1, -1)] + [Case([(), ()])],
    "linear": [Case([(4, 3), (2, 3), (2,)]), Case([(3,), (2, 3), (2,)]), Case([(2, 2, 3), (1, 3), (1,)]),
               Case([(0, 3), (2, 3), (2,)])],
    "mse_loss": [Case([s, s]) for s in ((4, 2), (3,), (0, 2))],
    "cross_entropy": [Case([shape, LABELS[: shape[0]]], dict(label_smoothing=e)) for e in (0.0, 0.2, 1.0)
                      for shape in ((4, 3), (2, 70), (0, 3))],  # few classes, and many: two layouts
    "bce_with_logits": [Case([s, s]) for s in ((4, 2), (3,), (0, 2))],
    "leaky_relu": [Case([shape], dict(slope=0.3), "away from 0") for shape in ((3, 4), (), (0, 3))],
    "clone": unary(), "astype": [Case([(2, 3)], dict(dtype=np.float64))],
    "scale_by": [Case([(2, 3), MASK * 2.0])],
}  # fmt: skip
ALL = [pytest.param(name, case, id=f"{name}{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]
each_case = pytest.mark.parametrize(("name", "case"), ALL)


def draw(domain, shape, rng):
    """Return values that stay clear of the operation's kinks by more than the step of finite differences."""
    count = int(np.prod(shape))
    values = {
        "any": lambda: rng.uniform(-2, 2, count),
        "positive": lambda: rng.uniform(0.5, 2, count),
        "away from 0": lambda: rng.uniform(0.3, 2, count) * rng.choice([-1, 1], count),
        "distinct": lambda: 0.2 * (rng.permutation(count) - count // 2),
    }[domain]()
    return values.reshape(shape)


def inputs_of(case, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Tensor(draw(case.domain, x, rng).astype(dtype), requires_grad=True)
        if isinstance(x, tuple)
        else Tensor(x.astype(dtype) if x.dtype.kind == "f" else x)
        for x in case.inputs
    ]


def test_every_registered_operation_has_an_entry_in_the_table():
    assert {name for name in OPERATIONS if not name.startswith("test_")} == set(CASES)


@each_case
def test_gradients_agree_with_finite_differences(name, case):
    for seed in range(2):
        gradcheck(lambda *tensors: OPERATIONS[name](*tensors, **case.options), *inputs_of(case, seed=seed))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_case
def test_results_and_gradients_keep_the_dtype_of_the_inputs(name, case, dtype):
    tensors = inputs_of(case, dtype)
    output = OPERATIONS[name](*tensors, **case.options)
    assert output.dtype == case.options.get("dtype", dtype)
    seen = []
    for tensor in tensors:
        if tensor.requires_grad:  # a hook sees what the rule returns, before `.grad` gives it its own dtype
            tensor.register_hook(lambda g: seen.append((g.dtype, g.shape)))
    output.backward(np.ones(output.shape))
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    assert sorted(map(str, seen)) == sorted(str((np.dtype(dtype), tensor.shape)) for tensor in wanted)
    assert all(tensor.grad.dtype == dtype for tensor in wanted)


@each_case
def test_an_operation_without_gradients_gives_the_same_values_and_no_node(name, case):
    tensors = inputs_of(case)
    recorded = OPERATIONS[name](*tensors, **case.options)
    with no_grad():
        plain = OPERATIONS[name](*tensors, **case.options)
    assert plain.node is None and not plain.requires_grad
    assert recorded.node.name == name
    np.testing.assert_array_equal(plain.data, recorded.data)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(["add", "sub", "mul", "div"]),
    mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3),
    st.integers(0, 100),
)
def test_arithmetic_broadcasts_any_shapes_and_sums_gradients_back(name, shapes, seed):
    case = Case(list(shapes.input_shapes), {}, "away from 0")
    assert OPERATIONS[name](*inputs_of(case)).shape == shapes.result_shape
    gradcheck(OPERATIONS[name], *inputs_of(case, seed=seed))


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    mutually_broadcastable_shapes(signature="(m?,n),(n,p?)->(m?,p?)", max_dims=2, max_side=3),
    st.integers(0, 100),
)
def test_matmul_takes_any_batches_and_vectors(shapes, seed):
    case = Case(list(shapes.input_shapes))
    assert operators.matmul(*inputs_of(case)).shape == shapes.result_shape
    gradcheck(operators.matmul, *inputs_of(case, seed=seed))


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(-3, 2), min_size=1, max_size=8), st.integers(0, 100))
def test_rows_taken_repeatedly_get_every_gradient(rows, seed):
    gradcheck(lambda x: x[np.array(rows)] * x[rows], *inputs_of(Case([(3, 2)]), seed=seed))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("number", [2, 2.5, True, np.float64(2.5), np.float32(2.5), np.int64(2)], ids=repr)
def test_a_number_takes_the_dtype_of_the_tensor_beside_it(dtype, number):
    x = Tensor(np.array([1.0, 2.0], dtype), requires_grad=True)
    results = [x + number, number - x, x * number, number / x, x / number, x**number, number**x,
               operators.where(x > 1, x, number), operators.where(x > 1, number, x), x.clip(number),
               x.clip(None, number), operators.where(x > 1, 1.0, 0.5) * x]  # fmt: skip
    assert [y.dtype for y in results] == [dtype] * len(results)
    sum(y.sum() for y in results).backward()
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("number", [2.5, np.float64(2.5), np.float32(2.5)], ids=repr)
def test_a_float_beside_integers_and_booleans_is_not_cut_off(number):
    for dtype, wanted in {"bool": "float32", "uint8": "float32", "int16": "float32", "int64": "float64"}.items():
        x = Tensor(np.array([1, 0], dtype))
        for y in (x * number, number * x, operators.where(x > 0, number, 0.0 * x)):
            np.testing.assert_array_equal(y.data, [2.5, 0])
        assert (x * number).dtype == wanted
        assert operators.where(x > 0, number, 0.0).dtype == np.float32


def test_numbers_of_numpy_without_a_tensor_beside_them_keep_their_dtype():
    loss = functional.mse_loss(np.float64(1) / 3, np.float64(2) / 3)
    assert loss.dtype == np.float64 and abs(loss.item() - 1 / 9) < 1e-15


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8, bool])
def test_a_list_takes_the_dtype_of_the_tensor_beside_it(dtype):
    """Python's floats in it are as exact as the array that NumPy would make of it."""
    array, listed = np.ones(2, dtype), [0.1, 0.3]
    wide = np.result_type(dtype, np.float32)
    for got, wanted in [
        (Tensor(array) * listed, array * np.array(listed, wide)), (listed - Tensor(array), np.array(listed, wide) - 1),
        (operators.where(Tensor(array) > 0, listed, Tensor(array)), np.array(listed, wide)),
    ]:  # fmt: skip
        np.testing.assert_array_equal(got.data, wanted, strict=True)
    with pytest.raises(TypeError, match="would lose their gradients"):
        Tensor(array) * [[Tensor(1.0)], [Tensor(2.0)]]


def test_an_array_on_the_left_asks_the_tensor():
    array, x = np.array([1.0, 2.0]), Tensor(np.array([3.0, 4.0]), requires_grad=True)
    for y in (array + x, array - x, array * x, array / x, array**x, array @ x):
        assert isinstance(y, Tensor) and y.requires_grad
    np.testing.assert_array_equal((array - x).data, [-2, -2])
    np.testing.assert_array_equal((array > x).data, [False, False])
    (array * x).sum().backward()
    np.testing.assert_array_equal(x.grad, array)


def test_values_are_numpys():
    a, b = np.arange(6.0).reshape(2, 3) - 2, np.arange(3.0) + 1
    x, y = Tensor(a), Tensor(b)
    for got, wanted in [
        (x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b), (y**x, b**a), (-x, -a), (x @ y, a @ b),
        (abs(x), abs(a)), (2 - x, 2 - a), (2 / y, 2 / b), (2**x, 2**a), (x.exp(), np.exp(a)), (y.log(), np.log(b)),
        (y.sqrt(), np.sqrt(b)), (x.tanh(), np.tanh(a)), (x.sigmoid(), 1 / (1 + np.exp(-a))),
        (x.relu(), np.maximum(a, 0)), (x.clip(-1, 1), np.clip(a, -1, 1)), (x.sum(0), a.sum(0)), (x.mean(), a.mean()),
        (x.mean(axis=1, keepdims=True), a.mean(axis=1, keepdims=True)), (x.max(axis=1), a.max(1)), (x.min(), a.min()),
        (x.softmax(), np.exp(a) / np.exp(a).sum(1, keepdims=True)), (x.logsumexp(), np.log(np.exp(a).sum(1))),
        (x.log_softmax(0), a - np.log(np.exp(a).sum(0))), (x.reshape(3, 2), a.reshape(3, 2)),
        (x.reshape((-1,)), a.ravel()), (x.T, a.T), (x.transpose(1, 0), a.T), (x[1, ::2], a[1, ::2]),
        (x[Tensor([1, 0])], a[[1, 0]]), (x[x > 0], a[a > 0]), (x.argmax(1), a.argmax(1)),
        (operators.stack(y, y, axis=1), np.stack([b, b], 1)), (operators.concatenate(x, x, axis=1), np.hstack([a, a])),
        (operators.where(x > 0, x, 0), np.where(a > 0, a, 0)), ((x > 0).mean(), (a > 0).mean()),
        (x < y, a < b), (x <= y, a <= b), (x > y, a > b), (x >= 1, a >= 1), (x == 1, a == 1), (x != y, a != b),
    ]:  # fmt: skip
        np.testing.assert_allclose(got.data, wanted, rtol=1e-15, atol=1e-15)


def test_what_has_no_gradient_has_pytorchs_names_too():
    a = np.array([[1.7, -2.0, 3.0]])
    x = Tensor(a, requires_grad=True)
    assert x.dim() == 2 and x.tolist() == [[1.7, -2, 3]] and Tensor(3).tolist() == 3
    for got, wanted in [
        (x.int(), a.astype(np.int32)), (x.long(), a.astype(np.int64)), ((x > 0).float(), (a > 0).astype(np.float32)),
        (x.eq(3), a == 3), (x.ne(x), a != a), (x.lt(2), a < 2), (x.le(3), a <= 3), (x.gt(2), a > 2), (x.ge(3), a >= 3),
    ]:  # fmt: skip
        np.testing.assert_array_equal(got.data, wanted, strict=True)
        assert not got.requires_grad
    assert x.double() is x and x.float().dtype == np.float32
    even, small = Tensor(np.arange(4) % 2 == 0), Tensor(np.arange(4) < 3)
    for got, wanted in [
        (even & small, [1, 0, 1, 0]), (even | small, [1, 1, 1, 0]), (even ^ small.data, [0, 1, 0, 0]),
        (even.data & small, [1, 0, 1, 0]), (~even, [0, 1, 0, 1]), (even.any(), 1), (small.all(), 0),
        ((Tensor([[1, 0], [1, 1]]) > 0).all(dim=1, keepdim=True), [[0], [1]]),
    ]:  # fmt: skip
        np.testing.assert_array_equal(got.data, np.array(wanted, bool), strict=True)


@pytest.mark.parametrize("convert", [lambda x: x.float(), lambda x: x.double(), lambda x: x.clone()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_converted_or_copied_tensor_passes_the_gradient_on_in_the_dtype_of_the_first(convert, dtype):
    x = Tensor(np.array([1.0, 2.0], dtype), requires_grad=True)
    y = convert(x)
    (y * np.array([3.0, 4.0], y.dtype)).sum().backward()
    assert x.grad.dtype == dtype and x.grad.tolist() == [3, 4]


def test_a_clone_has_memory_of_its_own():
    x = Tensor(np.ones((2, 3)).T)
    y = x.clone()
    y.zero_()
    assert x.data.all() and not y.data.any() and y.data.strides == x.data.strides


@pytest.mark.parametrize("call", [
    lambda x: x.unsqueeze(4), lambda x: x.unsqueeze(-5), lambda x: x.squeeze(3), lambda x: x.flatten(0, 3),
])  # fmt: skip
def test_an_axis_that_is_not_there_is_refused(call):
    with pytest.raises(IndexError):
        call(Tensor(np.ones((1, 2, 1))))


def test_a_shape_that_will_not_do_is_refused_by_name():
    with pytest.raises(ValueError, match=r"t: wanted at most two axes, got shape \(1, 2, 1\)"):
        Tensor(np.ones((1, 2, 1))).t()
    with pytest.raises(ValueError, match="start_dim must not come after end_dim, got 2 and 1"):
        Tensor(np.ones((1, 2, 1))).flatten(2, 1)
    assert Tensor(2.0).flatten().shape == (1,) and Tensor(np.ones((0, 2, 1))).flatten(1).shape == (0, 2)
    assert Tensor(2.0).squeeze().shape == () and Tensor([1.0, 2.0]).t().shape == (2,)
    assert Tensor(2.0).squeeze(0).shape == Tensor(2.0).transpose(-1, 0).shape == ()


@pytest.mark.parametrize(("before", "shape", "after"), [
    ((0, 3, 4), (0, -1), (0, 12)), ((0, 3, 4), (0, -1, 2), (0, 6, 2)), ((0, 3), (0, 3, -1), (0, 3, 1)),
    ((0, 3, 4), (-1, 12), (0, 12)), ((2, 0), (2, -1), (2, 0)),
])  # fmt: skip
def test_a_batch_without_rows_keeps_its_columns(before, shape, after):
    """What `x.view(len(x), -1)` is of a rank whose part of a batch is empty."""
    x = Tensor(np.ones(before), requires_grad=True)
    y = x.view(*shape)
    assert y.shape == after
    y.sum().backward()
    assert x.grad.shape == before


@pytest.mark.parametrize(("before", "shape"), [((0, 3), (0, -1, 2)), ((0, 3), (0, -1, 0)), ((0, 3), (0, -1, -1))])
def test_columns_that_do_not_come_out_even_are_refused(before, shape):
    with pytest.raises(ValueError):
        Tensor(np.ones(before)).view(*shape)


def test_reductions_take_pytorchs_names_too():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(x.sum(dim=1, keepdim=True).data, x.sum(axis=1, keepdims=True).data)
    assert np.array_equal(x.mean(dim=0).data, x.mean(0).data)
    assert np.array_equal(x.argmax(dim=1, keepdim=True).data, [[2], [2]]) and x.argmax().item() == 5
    assert np.array_equal(x.logsumexp(dim=0).data, x.logsumexp(0).data)
    assert np.array_equal(x.mean([0, 1]).data, 2.5) and np.array_equal(x.sum(dim=[1]).data, [3, 12])
    assert np.array_equal(x.clip(min=1, max=3).data, x.clamp(1, 3).data)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("rows", "wide", "narrow"), [(7, 5, 3), (7, 3, 5), (3001, 300, 2), (1000, 60, 40)])
def test_linear_takes_weights_of_either_layout_and_any_size(rows, wide, narrow, order):
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((rows, wide)), rng.standard_normal((narrow, wide)), np.arange(float(narrow))
    inputs, w = Tensor(x, requires_grad=True), Tensor(np.asarray(weight, order=order), requires_grad=True)
    y = functional.linear(inputs, w, bias)
    np.testing.assert_allclose(y.data, x @ weight.T + bias, rtol=1e-12, atol=1e-12)
    cotangent = rng.standard_normal(y.shape)
    y.backward(cotangent)
    np.testing.assert_allclose(inputs.grad, cotangent @ weight, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(w.grad, cotangent.T @ x, rtol=1e-10, atol=1e-10)


def test_comparisons_give_booleans_that_no_gradient_passes():
    x = Tensor([1.0, 2.0], requires_grad=True)
    for compared in (x < 1.5, x <= 1.5, x > 1.5, x >= 1.5, x == 1.5, x != 1.5):
        assert compared.dtype == bool and not compared.requires_grad and compared.node is None
    assert bool(x.sum() > 2) and not bool(x.sum() < 2)


def test_equal_largest_elements_share_the_gradient():
    x = Tensor(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), requires_grad=True)
    x.max(axis=1).sum().backward()
    np.testing.assert_allclose(x.grad, [[0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]])


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("keepdim", [False, True])
def test_by_dim_the_gradient_goes_to_the_element_at_the_index(name, keepdim):
    x = Tensor(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]) * (1 if name == "max" else -1), requires_grad=True)
    values, indices = getattr(x, name)(1, keepdim)
    (values * 5).sum().backward()
    wanted = np.zeros((2, 3))
    np.put_along_axis(wanted, indices.data.reshape(2, 1), 5, 1)
    np.testing.assert_array_equal(x.grad, wanted)
    assert values.shape == indices.shape == ((2, 1) if keepdim else (2,))
    assert getattr(Tensor(2.0), name)(0)[0].shape == ()
    with pytest.raises(TypeError, match=f"{name}: wanted a number for dim, got a Tensor"):
        getattr(x, name)(Tensor(1))


def test_a_power_has_its_slope_also_at_zero():
    x = Tensor(np.array([0.0, 0.0, -2.0]), requires_grad=True)
    (x ** np.array([0.0, 2.0, 3.0])).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0, 12])
    base = Tensor(np.array([0.0, 2.0]))
    exponent = Tensor(np.array([2.0, 1.0]), requires_grad=True)
    (base**exponent).sum().backward()
    np.testing.assert_allclose(exponent.grad, [0, 2 * np.log(2)])


def test_a_power_says_where_it_has_no_slope():
    """As in PyTorch: of a negative number, and of 0 where the power is infinite."""
    exponent = Tensor(np.array([2.0, -1.0]), requires_grad=True)
    with np.errstate(all="ignore"):
        (np.array([-2.0, 0.0]) ** exponent).sum().backward()
    np.testing.assert_array_equal(exponent.grad, [np.nan, -np.inf])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_numbers_do_not_overflow(dtype):
    x = Tensor(np.array([[-1e4, 0, 1e4]], dtype), requires_grad=True)
    labels, targets = np.array([0]), np.array([[1, 0, 0]], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        total = x.sigmoid().sum() + x.softmax().sum() + x.log_softmax().sum() + x.logsumexp().sum()
        total = total + functional.cross_entropy(x, labels) + functional.bce_with_logits(x, targets)
        total.backward()
    assert np.isfinite(total.item()) and np.isfinite(x.grad).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_of_whole_numbers_it_is_what_it_is_of_the_same_floats(name):
    numbers = np.array([[3, 1, 2], [0, 0, -900]])
    for axis in (0, -1):
        got, wanted = (OPERATIONS[name](Tensor(array), axis=axis).data for array in (numbers, numbers.astype(float)))
        np.testing.assert_array_equal(got, wanted, strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sigmoid_near_zero_is_as_precise_as_one_near_one(dtype):
    x = Tensor(np.array([[-80, -40, -20, 0, 20]], dtype), requires_grad=True)
    small = np.exp([-80.0, -40.0, -20.0])
    y = x.sigmoid()
    np.testing.assert_allclose(y.data[0], [*small / (1 + small), 0.5, 1 / (1 + small[2])], rtol=1e-6)
    y.log().sum().backward()
    np.testing.assert_allclose(x.grad[0, :4], [1, 1, 1, 0.5], rtol=1e-6)
    logits = Tensor(x.data, requires_grad=True)
    functional.bce_with_logits(logits, np.zeros_like(x.data)).backward()
    np.testing.assert_allclose(logits.grad[0, :3] * 5, small / (1 + small), rtol=1e-6)


def test_operations_refuse_what_has_no_meaning():
    with pytest.raises(ValueError, match="at least one axis on each side"):
        Tensor(2.0) @ Tensor([1.0])
    with pytest.raises(TypeError, match=r"use stack\(a, b\) or concatenate\(a, b\)"):
        operators.concatenate([Tensor([1.0]), Tensor([2.0])])


@pytest.mark.parametrize(
    ("vjp", "message"),
    [
        (lambda g: g * np.array([3.0, 2.0]), r"doubled: input 0, element \(0,\): wanted .*, got "),
        (lambda g: g * np.nan, r"element \(0,\): wanted .*, got nan"),
        (lambda g: g.sum(), r"wanted a gradient of shape \(2,\), got \(\)"),
    ],
    ids=["factor", "nan", "shape"],
)
def test_gradcheck_names_operation_input_and_element_of_a_wrong_rule(vjp, message):
    def doubled(x):
        return 2 * x, (vjp,)

    wrong = operation(keeps=())(doubled)
    del OPERATIONS["doubled"]
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    with pytest.raises(GradientError, match=message):
        gradcheck(wrong, x)
    assert x.grad is None


@pytest.mark.parametrize("keeps", [(1,), (0, 1), (0, 1, -1)])
def test_an_operation_that_keeps_an_input_that_it_has_not_is_refused(keeps):
    def doubled(x, *, factor=2):
        return factor * x, (lambda g: factor * g,)

    with pytest.raises(ValueError, match="operation doubled: keeps .* but has inputs 0 to 0"):
        operation(keeps=keeps)(doubled)
    assert "doubled" not in OPERATIONS


def test_gradcheck_refuses_float32_and_results_without_a_gradient():
    with pytest.raises(TypeError, match="input 1 is float32"):
        gradcheck(operators.add, Tensor(np.ones(2)), Tensor([1.0], requires_grad=True))
    with pytest.raises(GradientError, match="depends on no input"):
        gradcheck(lambda x: x.detach() * 2, Tensor(np.ones(2), requires_grad=True))
