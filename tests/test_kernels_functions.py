"""exp, tanh and erf: at most 2 units in the last place off, right at the edges, and the same bits in C and NumPy."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import FLOATS, LARGE, assert_same_bits, awkward, counts, needs_compiled, offsets, seeds, shifted

from npdp import kernels
from npdp.kernels import layers_reference

NAMES = ("exp", "tanh", "erf")
SIMPLE = {"exp": np.exp, "tanh": np.tanh, "erf": np.vectorize(math.erf, otypes=[np.float64])}
MOST_UNITS = 2


def dense(dtype):
    """Numbers over the whole range, dense where the functions change, and at the seams of their formulas."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    seams = np.array([0.55, 1.0, 0.34657, 4.0, 6.0, 9.0, 19.0, 88.7, 709.7, 87.3, 708.4, 103.9, 745.1], dtype)
    near = np.concatenate([np.nextafter(seams, 0), seams, np.nextafter(seams, np.inf).astype(dtype)])
    tiny = np.array([0, info.smallest_subnormal, info.tiny / 4, info.tiny, info.eps, 1e-3], dtype)
    spread = [rng.uniform(0, most, 60_000) for most in (0.6, 1.1, 7.0, 110.0, 750.0)]
    x = np.concatenate([near, tiny, *spread]).astype(dtype)
    return np.concatenate([x, -x])


def in_longer(name, x):
    """The function in more digits than x has: float64's for float32, mpmath's for float64."""
    if x.dtype == np.float32:
        with np.errstate(over="ignore"):
            return SIMPLE[name](x.astype(np.float64)).astype(np.longdouble)
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workprec(120):
        return np.array([_parts(getattr(mpmath, name)(float(each))) for each in x], np.longdouble)


def _parts(number):
    high = float(number)
    return np.longdouble(high) + (np.longdouble(float(number - high)) if math.isfinite(high) else 0)


def units_off(got, wanted):
    """By how many units in the last place of the type `got` differs from `wanted`, which has more digits."""
    unit = np.spacing(np.abs(wanted.astype(got.dtype)))
    same = (got == wanted.astype(got.dtype)) | ~np.isfinite(unit)
    np.testing.assert_array_equal(np.isfinite(got[~np.isfinite(unit)]), False)
    return np.where(same, 0, np.abs(got - wanted) / np.where(np.isfinite(unit), unit, 1)).max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_functions_are_at_most_two_units_in_the_last_place_off(name, dtype):
    x = dense(dtype)
    if dtype == "float64":
        x = np.concatenate([x[:200], x[::60]])
    with np.errstate(over="ignore", invalid="ignore"):
        assert units_off(getattr(kernels, name)(x), in_longer(name, x)) <= MOST_UNITS


@pytest.mark.parametrize("dtype", FLOATS)
def test_functions_are_right_at_the_edges_and_warn_of_nothing(dtype):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, np.finfo(dtype).max, np.finfo(dtype).min], dtype)
    wanted = {
        "exp": [np.inf, 0, np.nan, 1, 1, np.inf, 0],
        "tanh": [1, -1, np.nan, 0.0, -0.0, 1, -1],
        "erf": [1, -1, np.nan, 0.0, -0.0, 1, -1],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES:
            assert_same_bits(getattr(kernels, name)(x), np.array(wanted[name], dtype))


@needs_compiled
@pytest.mark.parametrize("name", layers_reference.OF_ONE)
@settings(deadline=None)
@given(dtype=st.sampled_from(FLOATS), count=counts, offset=offsets, seed=seeds)
def test_functions_of_one_array_have_the_same_bits_in_c_and_numpy(name, dtype, count, offset, seed):
    from npdp.kernels import layers_compiled

    rng = np.random.default_rng(seed)
    x = awkward(rng, dtype, count) if seed % 2 else (5 * rng.standard_normal(count)).astype(dtype)
    got, wanted = shifted(x, offset), np.empty_like(x)
    layers_compiled.of_one(name, got, got)  # in place
    layers_reference.of_one(name, x, wanted)
    assert_same_bits(got, wanted)


@needs_compiled
@pytest.mark.parametrize("dtype", FLOATS)
def test_ordinary_numbers_have_the_same_bits_in_c_and_numpy(dtype):
    from npdp.kernels import layers_compiled

    x = np.concatenate([dense(dtype), np.random.default_rng(0).standard_normal(LARGE).astype(dtype)])
    for name in layers_reference.OF_ONE:
        got, wanted = np.empty_like(x), np.empty_like(x)
        layers_compiled.of_one(name, x, got)
        layers_reference.of_one(name, x, wanted)
        assert_same_bits(got, wanted)


def test_functions_take_arrays_of_any_order_and_write_where_they_are_told():
    x = np.random.default_rng(0).standard_normal((6, 8))
    for view in (x, x.T, x[::2, 1:], np.asfortranarray(x), x.reshape(2, 3, 8), np.float64(1.5) + np.zeros(())):
        np.testing.assert_allclose(kernels.tanh(view), np.tanh(view), rtol=1e-15)
    out = np.empty_like(x)
    assert kernels.exp(x, out) is out and kernels.exp(x, x) is x
    np.testing.assert_array_equal(out, x)


def test_what_is_no_float_or_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="exp: got int64 and int64, wanted float32 or float64"):
        kernels.exp(np.arange(3))
    with pytest.raises(ValueError, match=r"erf: wanted a C-contiguous, writeable float64 of shape \(3,\) to write to"):
        kernels.erf(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="gelu: approximate is 'fast', wanted none or tanh"):
        kernels.gelu(np.ones(3), "fast")
