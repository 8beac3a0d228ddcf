"""Values and gradients as users take hold of them: arrays that have PyTorch's methods as well.

    p.data.normal_(0, 0.02)        p.grad.norm()        p.data.add_(p.grad, alpha=-0.1)        p.grad.zero_()

`Parameter.data` and `Tensor.grad` give such views. npdp itself works with `Tensor.array` and `raw_grad`, which are
plain: results of a subclass cost NumPy more (2.8 % of a step of a small linear model).
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Values(np.ndarray[Any, Any]):
    """View of an array, whose further methods are those of a tensor on the same memory."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        from npdp.autograd.tensor import result

        return getattr(result(np.asarray(self)), name)

    @property
    def data(self) -> Any:  # else a memoryview
        return self

    def view(self, *how: Any, **named: Any) -> Any:
        """Return the same memory in another shape, as PyTorch's `view`; or as another type or dtype, as NumPy's."""
        if how and all(isinstance(extent, (int, np.integer, tuple)) for extent in how):
            return self.reshape(*how)
        return super().view(*how, **named)

    def __repr__(self) -> str:
        return repr(np.asarray(self))


def plain(given: Any, before: Any) -> Any:
    """Return what is set in the place of an array: that itself where it is a view of it, as after `p.grad *= 0.5`."""
    if type(given) is not Values:
        return getattr(given, "array", given)  # of a tensor
    return before if before is not None and given.base is before else np.asarray(given)
