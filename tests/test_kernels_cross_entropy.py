"""The kernels at both ends of cross-entropy: the same in C and NumPy, and labels that are no classes are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import FLOATS, awkward, each_implementation, needs_compiled, offsets, seeds, shifted

from npdp import kernels

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
