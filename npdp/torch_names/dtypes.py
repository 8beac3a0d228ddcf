"""Dtypes under PyTorch's names, which are NumPy's dtypes, and what else describes numbers and places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npdp.autograd.pytorch_methods import Device

FLOAT = np.dtype(np.float32)  # of numbers that have no dtype, as in PyTorch


def get_default_dtype() -> np.dtype[Any]:
    """Return float32."""
    return FLOAT


def set_default_dtype(dtype: Any) -> None:
    """Accept float32, the default that there is; ValueError of another."""
    if np.dtype(dtype) != FLOAT:
        raise ValueError(f"set_default_dtype: it is always float32, got {dtype}: say dtype= and model.double()")


def is_floating_point(x: Any) -> bool:
    """Return whether a tensor has float32 or float64."""
    return bool(x.dtype.kind == "f")


_SHORT = {"float": "float32", "double": "float64", "long": "int64", "int": "int32", "short": "int16"}
_SAME = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")

NAMES: dict[str, Any] = {
    **{name: np.dtype(name) for name in _SAME},
    **{name: np.dtype(same) for name, same in _SHORT.items()},
    "dtype": np.dtype, "finfo": np.finfo, "iinfo": np.iinfo, "Size": tuple, "device": Device,
    "pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan, "newaxis": None,
    **{f.__name__: f for f in (get_default_dtype, set_default_dtype, is_floating_point)},
}  # fmt: skip
