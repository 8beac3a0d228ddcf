"""gradcheck itself: it names what is wrong with a rule, and refuses what it cannot check."""

import numpy as np
import pytest

from npdp.autograd import Tensor, operators
from npdp.autograd.gradcheck import GradientError, gradcheck
from npdp.autograd.operation import OPERATIONS, operation


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
