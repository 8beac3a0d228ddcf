"""The kernels' arithmetic: C and NumPy give the same bits, and the updates are PyTorch's."""

import warnings
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npdp import kernels

FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64")
LARGE = 100_003  # several of the reference's blocks, and a tail
SGD_FLAGS = [
    dict(momentum=m, dampening=d, nesterov=n, weight_decay=w, first=f)
    for m, d, n, w, f in product((0.0, 0.9), (0.0, 0.3), (False, True), (0.0, 0.01), (False, True))
]
PYTORCH_SGD_FLAGS = [  # it refuses Nesterov without momentum or with dampening
    flags for flags in SGD_FLAGS
    if not flags["first"] and not (flags["nesterov"] and (flags["momentum"] == 0 or flags["dampening"] != 0))
]  # fmt: skip
ADAM_FLAGS = [
    dict(weight_decay=w, decoupled=d, step=s) for w, d, s in product((0.0, 0.01), (False, True), (1, 2, 1000))
]
BETAS = dict(beta1=0.9, beta2=0.999, eps=1e-8)

needs_compiled = pytest.mark.skipif(kernels.compiled is None, reason="the C kernels are not compiled here")
each_implementation = pytest.mark.parametrize(
    "kernel", [kernels.reference, pytest.param(kernels.compiled, marks=needs_compiled)], ids=["numpy", "c"]
)
dtypes = st.sampled_from(FLOATS + INTEGERS)
counts = st.one_of(st.integers(0, 100), st.just(LARGE))
offsets = st.integers(0, 16)
seeds = st.integers(0, 2**32 - 1)


def awkward(rng, dtype, count):
    """Make `count` values, in turn at random: any bit pattern, ordinary numbers and special ones."""
    dtype = np.dtype(dtype)
    bits = rng.integers(0, 256, size=count * dtype.itemsize, dtype=np.uint8).view(dtype)
    if dtype.kind == "f":
        info = np.finfo(dtype)
        special = [
            0.0,
            -0.0,
            1.0,
            np.inf,
            -np.inf,
            np.nan,
            info.max,
            info.tiny,
            info.smallest_subnormal,
            -info.tiny / 4,
        ]
        ordinary = rng.standard_normal(count)
    else:
        info = np.iinfo(dtype)
        special = [0, 1, -1, info.max, info.min]
        ordinary = rng.integers(-9, 10, size=count)
    kind = rng.integers(0, 3, size=count)
    return np.choose(kind, [bits, ordinary.astype(dtype), rng.choice(np.array(special, dtype), size=count)])


def shifted(array, offset):
    """Copy an array to `offset` elements into new memory."""
    memory = np.empty(offset + array.size, array.dtype)
    memory[offset:] = array
    return memory[offset:]


def assert_same_bits(got, wanted):
    """NaN in the same places, and the same bits elsewhere."""
    nan = wanted != wanted
    np.testing.assert_array_equal(got != got, nan)
    unsigned = f"u{wanted.itemsize}"
    np.testing.assert_array_equal(got.view(unsigned)[~nan], wanted.view(unsigned)[~nan])


def accumulate(kernel, *arrays, op):
    return kernel.accumulate(*arrays, op)


def sgd_update(kernel, *arrays, lr, momentum, dampening, weight_decay, nesterov, first):
    return kernel.sgd_updater(*arrays)(lr, momentum, 1 - dampening, weight_decay, nesterov, first)


def adam_update(kernel, *arrays, lr, beta1, beta2, eps, weight_decay, decoupled, step):
    return kernel.adam_updater(*arrays)(lr, beta1, beta2, eps, weight_decay, decoupled, step)


def both(function, arrays, offset=0, **options):
    """Run C on copies that lie elsewhere and NumPy on copies; return what each left in the arrays."""
    results = []
    for kernel, place in ((kernels.compiled, offset), (kernels.reference, 0)):
        copies = [
            None if array is None else shifted(array, (place * (3 * i + 1)) % 17) for i, array in enumerate(arrays)
        ]
        assert function(kernel, *copies, **options) == 0
        results.append([copy for copy in copies if copy is not None])
    return results


def assert_both_the_same(function, arrays, offset=0, **options):
    compiled, reference = both(function, arrays, offset, **options)
    for got, wanted in zip(compiled, reference, strict=True):
        assert_same_bits(got, wanted)


# ---- C against NumPy


@needs_compiled
@pytest.mark.parametrize("op", kernels.OPS)
@settings(deadline=None)
@given(dtype=dtypes, count=counts, offset=offsets, seed=seeds)
def test_accumulate_gives_the_same_bits_in_c_and_numpy(op, dtype, count, offset, seed):
    rng = np.random.default_rng(seed)
    arrays = [awkward(rng, dtype, count), awkward(rng, dtype, count)]
    assert_both_the_same(accumulate, arrays, offset, op=op)


@needs_compiled
@pytest.mark.parametrize("op", kernels.OPS)
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_accumulate_gives_the_same_bits_for_every_length_and_offset(dtype, op):
    rng = np.random.default_rng(0)
    for count, offset in product(range(101), range(17)):
        arrays = [awkward(rng, dtype, count), awkward(rng, dtype, count)]
        assert_both_the_same(accumulate, arrays, offset, op=op)


@needs_compiled
@settings(deadline=None)
@given(dtype=st.sampled_from(FLOATS), count=counts, offset=offsets, seed=seeds)
def test_the_gradient_of_relu_has_the_same_bits_in_c_and_numpy(dtype, count, offset, seed):
    rng = np.random.default_rng(seed)
    g, y = awkward(rng, dtype, count), awkward(rng, dtype, count)
    wanted = kernels.reference.relu_gradient(g, y)
    assert_same_bits(kernels.compiled.relu_gradient(shifted(g, offset), shifted(y, (3 * offset) % 17)), wanted)


rows_and_classes = st.one_of(
    st.tuples(st.integers(0, 70), st.integers(1, 20)), st.sampled_from([(600, 10), (257, 3), (5, 700)])
)


@needs_compiled
@settings(deadline=None)
@given(dtype=st.sampled_from(FLOATS), sizes=rows_and_classes, offset=offsets, seed=seeds)
def test_both_ends_of_cross_entropy_are_the_same_in_c_and_numpy(dtype, sizes, offset, seed):
    """NaN and infinities too; the sign of a zero is left open, and exp takes it as the other."""
    rng = np.random.default_rng(seed)
    rows, classes = sizes
    logits, powers, totals = (awkward(rng, dtype, count) for count in (rows * classes, rows * classes, rows))
    labels = rng.integers(0, classes, rows)
    scalars = [float(x) for x in awkward(rng, dtype, 3)]
    left = []
    for kernel, place in ((kernels.compiled, offset), (kernels.reference, 0)):
        x, z, total = shifted(logits, place), shifted(powers, place), shifted(totals, place)
        label, memory = shifted(labels, place), np.full(3 * rows * classes + rows + 3, 7, dtype)
        less = memory[1 : 1 + rows * classes].reshape(classes, rows)
        gradient = memory[2 + rows * classes : 2 + 2 * rows * classes].reshape(classes, rows)
        chosen = memory[len(memory) - rows - 1 : len(memory) - 1]
        assert kernel.shifted_logits(x.reshape(rows, classes), label, less, chosen) == 0
        kernel.cross_entropy_gradient(z.reshape(classes, rows), total, label, gradient, *scalars)
        left.append(memory)
    np.testing.assert_array_equal(*left)


@each_implementation
@pytest.mark.parametrize("wrong", [-1, 4, 2**63 - 1, -(2**63)])
def test_a_label_that_is_no_class_is_refused_and_nothing_is_written(kernel, wrong):
    shifted, chosen = np.full((4, 3), 7.0), np.full(3, 7.0)
    assert kernel.shifted_logits(np.ones((3, 4)), np.array([0, wrong, 3]), shifted, chosen) == 1
    assert (shifted == 7).all() and (chosen == 7).all()
    assert kernels.shifted_logits(np.ones((3, 4)), np.array([0, wrong, 3])) is None


@pytest.mark.parametrize(("classes", "order"), [(64, "C"), (65, "F")])
def test_cross_entropy_of_many_classes_is_laid_by_rows(classes, order):
    """Where NumPy's walks along rows are quicker than any across them."""
    shifted, _ = kernels.shifted_logits(np.ones((3, classes)), np.array([0, 63, 1]))
    gradient = kernels.cross_entropy_gradient(np.exp(shifted), np.ones(3), np.array([0, 63, 1]), 1.0, 0.0, 1.0)
    for array in (shifted, gradient):
        assert array.shape == (classes, 3) and array.flags[f"{order}_CONTIGUOUS"]
    np.testing.assert_array_equal(gradient.T, 1 - np.eye(classes)[[0, 63, 1]])


@pytest.mark.parametrize("dtype", ["float16", ">f4", "float32", "float64"])
def test_cross_entropy_takes_floats_of_any_kind_wherever_they_lie(dtype):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((5, 3)).astype(dtype), np.array([0, 2, 1, 1, 0])
    nowhere = np.frombuffer(b"x" + labels.tobytes(), np.int64, offset=1)
    for x, y in [(logits, labels), (logits, nowhere), (np.frombuffer(b"x" + logits.tobytes(), dtype, -1, 1), labels)]:
        shifted, chosen = kernels.shifted_logits(x.reshape(5, 3), y)
        np.testing.assert_array_equal(shifted.T, logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_array_equal(chosen, shifted.T[range(5), labels])
        powers = np.exp(shifted, out=shifted)
        gradient = kernels.cross_entropy_gradient(powers, np.ones(5, dtype), y, 1.0, 0.0, 0.5)
        np.testing.assert_array_equal(gradient.T, powers.T - np.eye(3, dtype=dtype)[labels] / 2)


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
def test_state_that_fades_away_becomes_0(kernel, dtype):
    """Not a denormal number, with which arithmetic takes more than ten times as long."""
    tiny = np.finfo(dtype).tiny
    zeros = np.zeros(5, dtype)
    state = np.array([1.05 * tiny, -1.05 * tiny, 2 * tiny, tiny / 4, np.nan], dtype)
    velocity, m, v = state.copy(), state.copy(), np.abs(state)
    sgd_update(kernel, zeros.copy(), zeros, velocity, lr=0.1, momentum=0.9, dampening=0.0, nesterov=False,
               weight_decay=0.0, first=False)  # fmt: skip
    adam_update(kernel, zeros.copy(), zeros, m, v, lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8, weight_decay=0.0,
                decoupled=False, step=9)  # fmt: skip
    for left in (velocity, m, v):
        assert (left[[0, 1, 3]] == 0).all() and left[2] == np.dtype(dtype).type(0.9) * state[2] and np.isnan(left[4])
    velocity = state.copy()
    sgd_update(kernel, zeros.copy(), np.full(5, tiny / 4, dtype), velocity, lr=0.1, momentum=0.9, dampening=0.0,
                      nesterov=False, weight_decay=0.0, first=True)  # fmt: skip
    assert (velocity == 0).all()


def test_the_gradient_of_relu_takes_arrays_of_any_order_and_dtype():
    rng = np.random.default_rng(0)
    g, y = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))
    wanted = np.where(y > 0, g, 0)
    for first, second in [(g, y), (np.asfortranarray(g), y), (g, np.asfortranarray(y)), (g, y.astype(np.float32))]:
        np.testing.assert_array_equal(kernels.relu_gradient(first, second), wanted)
    np.testing.assert_array_equal(kernels.relu_gradient(g[::2, 1:], y[::2, 1:]), wanted[::2, 1:])
    np.testing.assert_array_equal(kernels.relu_gradient(np.broadcast_to(g[:1], (4, 6)), y), np.where(y > 0, g[:1], 0))


@needs_compiled
@settings(deadline=None)
@given(
    dtype=st.sampled_from(FLOATS), count=counts, offset=offsets, seed=seeds, flags=st.sampled_from(SGD_FLAGS),
    lr=st.floats(1e-6, 10),
)  # fmt: skip
def test_sgd_gives_the_same_bits_in_c_and_numpy(dtype, count, offset, seed, flags, lr):
    rng = np.random.default_rng(seed)
    arrays = [awkward(rng, dtype, count) for _ in range(3)]
    assert_both_the_same(sgd_update, arrays, offset, lr=lr, **flags)


@needs_compiled
@pytest.mark.parametrize("dtype", FLOATS)
def test_sgd_gives_the_same_bits_for_all_flags_and_short_lengths(dtype):
    rng = np.random.default_rng(1)
    for flags, count in product(SGD_FLAGS, range(0, 70)):
        arrays = [awkward(rng, dtype, count) for _ in range(3)]
        assert_both_the_same(sgd_update, arrays, count % 17, lr=0.1, **flags)


@needs_compiled
@settings(deadline=None)
@given(
    dtype=st.sampled_from(FLOATS), count=counts, offset=offsets, seed=seeds, flags=st.sampled_from(ADAM_FLAGS),
    lr=st.floats(1e-6, 10),
)  # fmt: skip
def test_adam_gives_the_same_bits_in_c_and_numpy(dtype, count, offset, seed, flags, lr):
    rng = np.random.default_rng(seed)
    param, grad, m = (awkward(rng, dtype, count) for _ in range(3))
    v = np.abs(awkward(rng, dtype, count))
    assert_both_the_same(adam_update, [param, grad, m, v], offset, lr=lr, **BETAS, **flags)


@needs_compiled
@pytest.mark.parametrize("dtype", FLOATS)
def test_adam_gives_the_same_bits_for_all_flags_and_short_lengths(dtype):
    rng = np.random.default_rng(2)
    for flags, count in product(ADAM_FLAGS, range(0, 70)):
        arrays = [awkward(rng, dtype, count) for _ in range(4)]  # v below zero too: NaN in both
        assert_both_the_same(adam_update, arrays, count % 17, lr=0.1, **BETAS, **flags)


@needs_compiled
@pytest.mark.parametrize("dtype", FLOATS)
def test_scalars_too_small_or_large_for_the_dtype_are_rounded_alike(dtype):
    rng = np.random.default_rng(3)
    for lr, momentum, weight_decay in product((1e-60, 1e60, 0.1), (1e-60, 0.9), (1e-60, 1e60, 0.0)):
        arrays = [awkward(rng, dtype, 50) for _ in range(3)]
        flags = dict(momentum=momentum, dampening=0.1, nesterov=True, weight_decay=weight_decay, first=False)
        assert_both_the_same(sgd_update, arrays, lr=lr, **flags)


# ---- what each implementation must do


@each_implementation
def test_accumulate_combines_each_element_with_its_own(kernel):
    for dtype, (op, ufunc) in product(
        FLOATS + INTEGERS, {"sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}.items()
    ):
        dst, src = np.arange(1, 40_001).astype(dtype), (np.arange(40_000) % 7 * 9000).astype(dtype)
        wanted = ufunc(dst, src)
        kernel.accumulate(dst, src, op)
        np.testing.assert_array_equal(dst, wanted)
        np.testing.assert_array_equal(src, (np.arange(40_000) % 7 * 9000).astype(dtype))


@each_implementation
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap(kernel, dtype):
    info = np.iinfo(dtype)
    dst = np.array([info.max, info.min, info.max], dtype)
    kernel.accumulate(dst, np.array([1, -1, info.max], dtype), "sum")
    assert dst.tolist() == [info.min, info.max, -2]
    dst = np.array([info.min, info.max, 2**30], dtype)
    kernel.accumulate(dst, np.array([-1, 2, 8], dtype), "prod")
    assert dst.tolist() == [info.min, -2, 2**33 if dtype == "int64" else 0]


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["min", "max"])
def test_min_and_max_give_nan_for_nan_in_either_and_src_for_equal_zeros(kernel, op, dtype):
    for count in (4, 36, 99):  # scalar code and vectors
        dst = np.resize(np.array([np.nan, 1, 0.0, -0.0], dtype), count)
        src = np.resize(np.array([1, np.nan, -0.0, 0.0], dtype), count)
        kernel.accumulate(dst, src, op)
        np.testing.assert_array_equal(np.isnan(dst), np.arange(count) % 4 < 2)
        zeros = ~np.isnan(dst)
        np.testing.assert_array_equal(np.signbit(dst[zeros]), np.signbit(src[zeros]))


@each_implementation
@pytest.mark.parametrize("op", kernels.OPS)
def test_an_array_can_be_accumulated_into_itself(kernel, op):
    array = np.arange(1.0, 50_001.0)
    wanted = {"sum": array * 2, "prod": array * array}.get(op, array.copy())
    assert kernel.accumulate(array, array, op) == 0
    np.testing.assert_array_equal(array, wanted)


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_range_updated_in_pieces_gives_the_bits_of_the_whole(kernel, dtype):
    rng = np.random.default_rng(4)
    param, grad, m, v = (rng.random(40_000).astype(dtype) for _ in range(4))
    sgd = dict(lr=0.1, momentum=0.9, dampening=0.1, nesterov=True, weight_decay=0.01, first=False)
    adam = dict(lr=0.1, **BETAS, weight_decay=0.01, decoupled=True, step=3)
    whole, pieces = [[a.copy() for a in (param, grad, m, v)] for _ in range(2)]
    cuts = [0, 1, 17, 20_000, 40_000]
    for arrays, bounds in ((whole, [0, 40_000]), (pieces, cuts)):
        for start, stop in pairwise(bounds):
            part = [array[start:stop] for array in arrays]
            sgd_update(kernel, *part[:3], **sgd)
            adam_update(kernel, *part, **adam)
    for got, wanted in zip(pieces, whole, strict=True):
        assert_same_bits(got, wanted)


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("flags", PYTORCH_SGD_FLAGS, ids=str)
def test_sgd_is_pytorchs(kernel, flags, dtype):
    torch = pytest.importorskip("torch")
    options = {name: value for name, value in flags.items() if name != "first"}
    rng = np.random.default_rng(5)
    param, velocity = rng.standard_normal(50).astype(dtype), np.empty(50, dtype)
    theirs = torch.nn.Parameter(torch.tensor(param))
    optimizer = torch.optim.SGD([theirs], lr=0.1, **options)
    for iteration in range(4):
        grad = rng.standard_normal(50).astype(dtype)
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        sgd_update(kernel, param, grad, velocity, lr=0.1, **options, first=iteration == 0)
    np.testing.assert_allclose(
        param, theirs.detach().numpy(), rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps
    )


@each_implementation
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_adam_is_pytorchs(kernel, weight_decay, decoupled, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    param, m, v = rng.standard_normal(50).astype(dtype), np.zeros(50, dtype), np.zeros(50, dtype)
    theirs = torch.nn.Parameter(torch.tensor(param))
    optimizer_class = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = optimizer_class([theirs], lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)
    for step in range(1, 6):
        grad = rng.standard_normal(50).astype(dtype)
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        adam_update(kernel, 
            param, grad, m, v, lr=0.01, **BETAS, weight_decay=weight_decay, decoupled=decoupled, step=step
        )
    np.testing.assert_allclose(
        param, theirs.detach().numpy(), rtol=16 * np.finfo(dtype).eps, atol=16 * np.finfo(dtype).eps
    )


@each_implementation
def test_plain_sgd_needs_no_velocity_and_leaves_grad_alone(kernel):
    param, grad = np.arange(5.0), np.arange(5.0)
    options = dict(lr=0.5, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0, first=True)
    sgd_update(kernel, param, grad, None, **options)
    assert (param.tolist(), grad.tolist()) == ([0, 0.5, 1, 1.5, 2], [0, 1, 2, 3, 4])


@each_implementation
def test_overflow_and_nan_pass_without_a_warning(kernel):
    largest = np.full(5, np.finfo(np.float32).max)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel.accumulate(largest, largest, "sum")
        kernel.accumulate(largest, np.full(5, -np.inf, np.float32), "sum")
    assert np.isnan(largest).all()
