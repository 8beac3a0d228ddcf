"""The dtype of a result of two: PyTorch's, where one of them has floats."""

import itertools

import numpy as np
import pytest

from npdp import nn
from npdp.autograd import Tensor, operators

torch = pytest.importorskip("torch", reason="PyTorch is what npdp is compared with: pip install npdp[compare]")

OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "where": None,
}
DTYPES = ("float32", "float64", "int32", "int64", "uint8", "bool")
ARRAYS = {f"{dtype}{list(shape)}": np.ones(shape, dtype) for dtype in DTYPES for shape in ((), (2,))}
PAIRS = [pair for pair in itertools.product(ARRAYS, repeat=2) if "float" in pair[0] + pair[1]]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_result_with_floats_has_pytorchs_dtype_and_each_input_a_gradient_of_its_own(name):
    for left, right in PAIRS:
        arrays = ARRAYS[left], ARRAYS[right]
        a, b = (Tensor(x, requires_grad=x.dtype.kind == "f") for x in arrays)
        theirs = [torch.from_numpy(x) for x in arrays]
        if name == "where":
            chosen = np.array([True, False])
            result, wanted = operators.where(chosen, a, b), torch.where(torch.from_numpy(chosen), *theirs)
        elif name == "sub" and "bool" in left + right:
            continue  # PyTorch has none
        else:
            result, wanted = OPERATIONS[name](a, b), OPERATIONS[name](*theirs)
        assert (left, right, str(result.dtype)) == (left, right, str(wanted.dtype).removeprefix("torch."))
        np.testing.assert_array_equal(result.data, wanted.numpy())
        result.sum().backward()
        assert all((x.grad.dtype, x.grad.shape) == (x.dtype, x.shape) for x in (a, b) if x.requires_grad)


def test_a_loss_by_a_count_is_as_narrow_as_the_model():
    """Of a float64 loss all of backward would be float64."""
    x = Tensor(np.ones((3, 2), np.float32), requires_grad=True)
    mask = Tensor(np.array([[1, 0], [1, 1], [0, 0]]))
    loss = (x * mask).sum() / mask.sum()
    assert loss.dtype == np.float32
    seen = []
    x.register_hook(lambda g: seen.append(g.dtype))
    loss.backward()
    assert seen == [np.float32]
    np.testing.assert_array_equal(x.grad, np.float32(mask.data) / np.float32(3))


def test_what_numpy_widens_without_floats_is_numpys():
    whole = Tensor(np.array([1, 2]))
    assert (whole / whole).dtype == np.float64 and (whole + Tensor(np.int32(1))).dtype == np.int64
    assert (Tensor(np.array([1j])) * Tensor(np.float32([1]))).dtype == np.complex128


class Scaled(nn.Module):
    def __init__(self, dtype, shape=(2,)):
        self.linear, self.scale = nn.Linear(3, 2), nn.Parameter(np.ones(shape, dtype))

    def forward(self, x):
        return self.linear(x) * self.scale


def test_a_parameter_that_makes_a_model_float64_is_named_where_it_is_wrapped():
    with pytest.warns(UserWarning, match=r"in a model of float32 scale is float64, .* at half the speed") as said:
        nn.DataParallel(Scaled(np.float64))
    assert len(said) == 1 and said[0].filename == __file__


@pytest.mark.parametrize("model", [Scaled(np.float32), Scaled(np.float64, ()), nn.Linear(3, 2, dtype=np.float64)])
def test_a_model_of_one_dtype_and_a_number_that_widens_nothing_are_wrapped_without_a_word(model, recwarn):
    nn.DataParallel(model)
    assert not recwarn.list


@pytest.mark.parametrize("beside", [
    lambda y, t: nn.MSELoss()(y, t), lambda y, t: nn.L1Loss()(y, t), lambda y, t: nn.BCEWithLogitsLoss()(y, t),
    lambda y, t: nn.HuberLoss()(y, t), lambda y, t: (y * t).sum(), lambda y, t: (t @ y.transpose(0, 1)).sum(),
    lambda y, t: operators.concatenate(y, t).sum(), lambda y, t: operators.stack(y, t).sum(),
    lambda y, t: operators.where(t.data > 0, y, t).sum(),
])  # fmt: skip
@pytest.mark.parametrize("layer", [lambda: nn.LayerNorm(2), nn.GELU, lambda: nn.GELU("tanh")])
def test_what_is_float64_behind_a_float32_layer_leaves_its_gradient_float32(layer, beside):
    """NumPy's targets are float64 as a rule, and kernels take arrays of one dtype."""
    values = np.random.default_rng(0).normal(size=(2, 3, 2))
    gradients = []
    for dtype in (np.float32, np.float64):
        x = Tensor(values[0].astype(dtype), requires_grad=True)
        beside(of_dtype(layer(), dtype)(x * 2), Tensor(values[1])).backward()
        assert x.grad.dtype == dtype
        gradients.append(x.grad)
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)


def of_dtype(layer, dtype):
    for parameter in layer.parameters():
        parameter.data = parameter.data.astype(dtype)
    return layer
