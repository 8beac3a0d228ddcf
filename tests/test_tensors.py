"""Tensors: dtypes, what they say of themselves, rows, and that no gradient is lost in NumPy's functions."""

import numpy as np
import pytest

from npdp.autograd import Tensor, no_grad


def test_arrays_keep_their_dtype_and_python_floats_become_float32():
    assert Tensor(np.zeros(2)).dtype == np.float64
    assert Tensor(np.zeros(2, np.float32)).dtype == np.float32
    assert Tensor(np.float64(1)).dtype == np.float64
    assert Tensor(1.5).dtype == Tensor([1.5]).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor([np.zeros(2), np.zeros(2)]).dtype == Tensor([[0.5], [np.float64(0.1)]]).dtype == np.float64


def test_a_tensor_says_what_it_is():
    array = np.arange(6.0).reshape(2, 3)
    x = Tensor(array, requires_grad=True)
    assert (x.shape, x.ndim, len(x), x.numel(), x.size(), x.size(dim=1)) == ((2, 3), 2, 2, 6, (2, 3), 3)
    assert x.numpy() is array and np.asarray(x) is not None and x.is_leaf and not (x * 2).is_leaf
    assert (x.sum().item(), float(x[1, 2]), int(x[1, 2])) == (15.0, 5.0, 5)
    assert (f"{x.sum():.2f}", f"{x[0, :2]}") == ("15.00", str(x[0, :2]))
    with pytest.raises(TypeError, match=r"only one number takes a format, got '.2f' for a Tensor of shape \(2, 3\)"):
        f"{x:.2f}"
    assert "requires_grad=True" in repr(x) and "made by sum" in repr(x.sum())
    assert [float(row.sum()) for row in x] == [3.0, 12.0]
    assert float(Tensor([[1.5]])) == 1.5 and int(Tensor([2])) == 2
    assert ["a", "b", "c"][x[0].argmax()] == "c" and np.arange(5.0)[Tensor([3, 1])].tolist() == [3, 1]
    with pytest.raises(TypeError):
        range(Tensor(1.5))


@pytest.mark.parametrize("function", [
    lambda h: np.concatenate([h, h]), lambda h: np.where([True], 0, h), lambda h: np.dot(np.ones(2), h),
    lambda h: np.stack(arrays=(h, h)), lambda h: np.split(h, 2), lambda h: np.mean(h),
])  # fmt: skip
def test_numpys_functions_do_not_lose_a_gradient_in_silence(function):
    x = Tensor(np.ones(2), requires_grad=True)
    with pytest.raises(TypeError, match=r"np\.\w+ makes an array, at which the gradient of a Tensor would end"):
        function(2 * x)
    with no_grad():
        function(2 * x)
    function(x.detach())


def test_numpys_functions_take_tensors_where_no_gradient_could_pass():
    x = Tensor(np.array([[1.0, 3.0], [5.0, 2.0]]), requires_grad=True)
    assert np.argmax(2 * x, 1).tolist() == [1, 0] and np.allclose(x, x.data) and np.shape(x) == (2, 2)
    assert np.mean(x.detach()) == 2.75 and np.sum(x.detach(), axis=0).tolist() == [6, 5]


def test_iterating_gives_rows_and_a_number_has_none():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    first, second = x
    (first * second).sum().backward()
    np.testing.assert_array_equal(x.grad, [[3, 4], [1, 2]])
    with pytest.raises(TypeError, match="unsized"):
        list(Tensor(1.0))


@pytest.mark.parametrize("dtype", [np.int64, bool, np.complex128, np.float16])
def test_only_float32_and_float64_have_gradients(dtype):
    with pytest.raises(TypeError, match="a gradient needs float32 or float64, got"):
        Tensor(np.zeros(2, dtype), requires_grad=True)
