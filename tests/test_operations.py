"""Every registered operation: its gradient against finite differences, its dtype, its place in the graph."""

from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import npdp.nn.losses  # noqa: F401  (registers its own operation)
from npdp.autograd import Tensor, no_grad, operators
from npdp.autograd.gradcheck import gradcheck
from npdp.autograd.operation import OPERATIONS
from npdp.nn.forward import alone
from npdp.nn.masks import Masks
from npdp.nn.windows import Windows

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
NORMALISED = ((4, 3), (3,)), ((2, 2, 3), (2, 3)), ((3,), (3,)), ((2, 3, 1), (1,)), ((0, 3), (3,))
WINDOWS = Windows((2, 2), (2, 2), ((0, 0), (0, 0)))
WIDE = Windows((2, 3), (1, 2), ((1, 0), (1, 1)), (2, 1))  # they overlap, and reach over the border


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
    "mean_square": [Case([s, s]) for s in ((4, 2), (3,), (0, 2))],
    "cross_entropy": [Case([shape, LABELS[: shape[0]]], dict(label_smoothing=e)) for e in (0.0, 0.2, 1.0)
                      for shape in ((4, 3), (2, 70), (0, 3))],  # few classes, and many: two layouts
    "cross_entropies": [
        Case([(4, 3), LABELS], dict(weights=np.array([1.0, 0.5, 0, 2]), kept=np.array([True, True, False, True]))),
        Case([(4, 3), LABELS], dict(weights=np.ones(4), kept=np.ones(4, bool), smooth=np.array([0.1, 0.2, 0.3]))),
        Case([(0, 3), LABELS[:0]], dict(weights=np.ones(0), kept=np.ones(0, bool))),
    ],
    "row_losses": [
        Case([(4, 3), LABELS], dict(kept=np.array([True, True, False, True]), label_smoothing=e)) for e in (0.0, 0.3)
    ] + [Case([(0, 3), LABELS[:0]], dict(kept=np.ones(0, bool)))],
    "huber": [Case([s], dict(delta=0.9), "away from 0") for s in ANY],
    "bce_with_logits": [Case([s, s]) for s in ((4, 2), (3,), (0, 2))],
    "leaky_relu": [Case([shape], dict(slope=0.3), "away from 0") for shape in ((3, 4), (), (0, 3))],
    "sin": unary(), "cos": unary(), "contiguous": unary(), "log1p": unary("positive"), "expm1": unary(),
    "norm": along_axes("away from 0"),
    "einsum": [Case([s, t], dict(of_a=a, of_b=b, of_y=y)) for s, t, a, b, y in (
        ((2, 3), (3, 4), "ij", "jk", "ik"), ((2, 3), (4,), "ij", "k", "i"), ((2, 2, 3), (2, 4, 3), "bij", "bkj", "bik"),
        ((2, 3), (2, 3), "ij", "ij", ""), ((0, 3), (3, 2), "ij", "jk", "ki"))],
    "maximum": [Case([s, t], {}, "distinct") for s, t in (((3, 4), (3, 1)), ((2,), (2,)), ((0, 2), (2,)))],
    "minimum": [Case([s, t], {}, "distinct") for s, t in (((3, 4), (3, 1)), ((2,), (2,)), ((0, 2), (2,)))],
    "expand": [Case([s], dict(shape=t)) for s, t in (((3, 1), (2, 3, 4)), ((), (2,)), ((0, 1), (0, 3)))],
    "cumsum": [Case([(2, 3, 2)], dict(axis=a)) for a in (0, 1, -1)],
    "gelu": unary(), "gelu_tanh": unary(), "silu": unary(),
    "softplus": [Case([s], dict(beta=1.5, threshold=2.0), "away from 0") for s in ANY],
    "elu": [Case([s], dict(alpha=0.7), "away from 0") for s in ANY],
    "layer_norm": [Case([s, w, w], dict(eps=1e-3)) for s, w in NORMALISED],
    "rms_norm": [Case([s, w], dict(eps=1e-3)) for s, w in NORMALISED],
    "attention": [
        Case([(2, 3, 2), (2, 3, 2), (2, 3, 2)], dict(causal=True, scale=0.7)),
        Case([(3, 2), (4, 2), (4, 1), (3, 4)], dict(causal=False, scale=1.0)),
        Case([(0, 3, 2), (0, 3, 2), (0, 3, 2)], dict(causal=True, scale=0.7)),
        Case([(2, 3, 2), (2, 2, 2), (2, 2, 2)], dict(causal=False, scale=1.0, dropout=Masks(0.5, 1))),
    ],
    "clone": unary(), "astype": [Case([(2, 3)], dict(dtype=np.float64))],
    "scale_by": [Case([(2, 3), MASK * 2.0])],
    "conv2d": [Case([(2, 2, 3, 4), (4, 2 // g, *w.kernel), (4,)], dict(windows=w, groups=g))
               for w in (WINDOWS, WIDE) for g in (1, 2)] + [
               Case([(0, 1, 3, 3), (2, 1, 2, 2), (2,)], dict(windows=WINDOWS, groups=1))],
    "max_pool2d": [Case([shape], dict(windows=w), "distinct") for w in (WINDOWS, WIDE)
                   for shape in ((2, 1, 3, 4), (0, 2, 3, 3))],
    "batch_norm": [Case([shape, shape[1:2], shape[1:2]], dict(eps=1e-3, sum_over_ranks=alone, note=lambda *batch: None))
                   for shape in ((3, 2), (4, 3, 2), (2, 2, 2, 3), (0, 2, 3, 3))],
    "gru": [Case([(t, n, 2), (n, 3), (9, 2), (9, 3), (9,), (9,)]) for t, n in ((3, 2), (1, 1), (2, 0))],
    "lstm": [Case([(t, n, 2), (n, 3), (n, 3), (12, 2), (12, 3), (12,), (12,)]) for t, n in ((3, 2), (1, 1), (2, 0))],
    "avg_pool2d": [Case([shape], dict(windows=w)) for w in (WINDOWS, WIDE) for shape in ((2, 1, 3, 4), (0, 2, 3, 3))],
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


class WithoutAddAt:
    """NumPy, whose `np.add.at` must not be called."""

    add = None

    def __getattr__(self, name):
        return getattr(np, name)


@pytest.mark.parametrize("at", INDICES, ids=repr)
def test_elements_that_are_taken_once_get_the_bits_of_a_sum_without_looking_for_those_taken_twice(at, monkeypatch):
    x = Tensor(np.zeros((3, 2, 2), np.float32), requires_grad=True)
    y = x[at]
    gradient = np.resize(np.array([-0.0, np.nan, np.inf, 1e-45, 0.1], np.float32), y.shape)
    wanted = np.zeros_like(x.data)
    np.add.at(wanted, at, gradient)
    parts = at if isinstance(at, tuple) else (at,)
    if all(part is None or isinstance(part, (int, slice, type(...))) for part in parts):
        monkeypatch.setattr(operators, "np", WithoutAddAt())
    y.backward(gradient)
    assert x.grad.tobytes() == wanted.tobytes()


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(-3, 2), min_size=1, max_size=8), st.integers(0, 100))
def test_rows_taken_repeatedly_get_every_gradient(rows, seed):
    gradcheck(lambda x: x[np.array(rows)] * x[rows], *inputs_of(Case([(3, 2)]), seed=seed))
