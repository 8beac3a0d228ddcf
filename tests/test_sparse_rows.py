"""Gradients by rows and rows of a table: each adds up, is taken and refused as the array that it stands for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_tables import row_gradient, seeds, sparse, table

from npdp.autograd.rows import Distinct, RowGradient, no_rows
from npdp.data import SparseRows


# RowGradient
@settings(deadline=None)
@given(seeds, seeds)
def test_the_sum_of_two_is_the_sum_of_their_arrays(seed, other):
    a, b = row_gradient(seed), row_gradient(other)
    total = a + b
    assert np.array_equal(total.dense(), a.dense() + b.dense())
    assert np.array_equal(total.rows, np.union1d(a.rows, b.rows))
    assert np.array_equal((b + a).dense(), total.dense())


@settings(deadline=None)
@given(seeds)
def test_adding_changes_neither_of_the_two(seed):
    a, b = row_gradient(seed), row_gradient(seed + 1)
    before = a.copy(), b.copy()
    a + b
    assert np.array_equal(a.values, before[0].values) and np.array_equal(b.values, before[1].values)


def test_a_sum_with_an_array_is_an_array():
    a, array = row_gradient(1), np.ones((7, 3))
    for total in (a + array, array + a):
        assert type(total) is np.ndarray and np.array_equal(total, a.dense() + 1)


def test_no_rows_are_zero_everywhere_and_add_nothing():
    a = row_gradient(3)
    assert not no_rows((7, 3), np.float64).dense().any()
    assert np.array_equal((a + no_rows((7, 3), np.float64)).dense(), a.dense())


def test_a_gradient_whose_values_do_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"shape \(7, 3\): got \(2,\) rows and values of shape \(3, 3\)"):
        RowGradient(np.arange(2), np.ones((3, 3)), (7, 3))
    with pytest.raises(ValueError, match="do not add up"):
        row_gradient(1) + no_rows((8, 3), np.float64)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40)))
def test_distinct_does_what_unique_does(numbers):
    find = Distinct(41)
    for part in (numbers, numbers[::2]):  # slots of the first time do not show in the second
        rows, places = find(np.array(part, np.int32))
        wanted, inverse = np.unique(np.array(part, np.int64), return_inverse=True)
        assert np.array_equal(rows, wanted) and np.array_equal(places, inverse) and rows.dtype == np.int64


# SparseRows
@settings(deadline=None)
@given(seeds, st.integers(0, 5), st.integers(1, 9))
def test_rows_give_back_the_table_and_take_what_indexing_takes(seed, count, columns):
    dense = table(seed, count, columns)
    rows = sparse(dense)
    assert len(rows) == count and np.array_equal(rows.dense(), dense)
    chosen = np.random.default_rng(seed).integers(0, count, 4) if count else np.arange(0)
    assert np.array_equal(rows.take(chosen).dense(), dense[chosen])
    assert np.array_equal(rows.take(slice(1, None, 2)).dense(), dense[1::2])


def test_rows_are_made_of_scipys_csr_and_of_nothing_else():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    dense = table(2)
    for make in (scipy_sparse.csr_array, scipy_sparse.csr_matrix):
        assert np.array_equal(SparseRows.of(make(dense)).dense(), dense)
    for other in (dense, scipy_sparse.csc_array(dense)):
        with pytest.raises(TypeError, match="wanted SparseRows or a CSR matrix of scipy.sparse, got"):
            SparseRows.of(other)


@pytest.mark.parametrize(("indptr", "indices", "values", "said"), [
    ([0, 1], [0], [1.0], "indptr must rise from 0 in 3 steps"),
    ([1, 1, 1], [0], [1.0], "indptr must rise from 0"),
    ([0, 2, 1], [0], [1.0], "indptr must rise from 0"),
    ([0, 1, 2], [0], [1.0], r"indptr ends at 2, but there are \(1,\) indices"),
    ([0, 1, 1], [0], [1.0, 2.0], r"and \(2,\) values"),
    ([0, 1, 2], [0, 4], [1.0, 2.0], "row 1 has the index 4, wanted 0 to 3"),
    ([0, 0, 1], [-1], [1.0], "row 1 has the index -1"),
    ([0, 0, 1], [0.0], [1.0], "indices must be integers, got float64"),
])  # fmt: skip
def test_rows_that_do_not_fit_together_are_refused(indptr, indices, values, said):
    with pytest.raises(ValueError, match=said):
        SparseRows(indptr, indices, values, (2, 4))
