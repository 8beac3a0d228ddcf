"""exp, tanh and erf in NumPy: operation by operation those of `csrc/functions.h`, where they are explained.

Each takes a block of float32 or float64, one-dimensional, and returns a new one. At most 2 units in the last place off.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Constants(NamedTuple):
    """What differs between float32 and float64; polynomials begin with the coefficient of the lowest power."""

    unsigned: str
    fraction_bits: int
    shifter: float
    shifter_less_bias: int
    ln2_high: float
    ln2_low: float
    least: float
    most: float
    erf_is_1: float
    exp: tuple[float, ...]
    tanh: tuple[float, ...]
    erf: tuple[float, ...]
    tail: tuple[float, ...]


LOG2_E = 1.4426950408889634
TANH_FAR, ERF_FAR = 0.55, 1.0

OF = {
    np.dtype(np.float32): Constants(
        unsigned="u4", fraction_bits=23, shifter=12582912.0, shifter_less_bias=0x4B400000 - 2 * 127,
        ln2_high=0.693359375, ln2_low=-2.12194440e-4, least=-104.0, most=89.0, erf_is_1=4.0,
        exp=(0.49999994, 0.16666515, 0.041668087, 0.0083692968, 0.0013838239),
        tanh=(-0.33333316, 0.13332544, -0.053847548, 0.021050714, -0.0062428494),
        erf=(0.12837917, -0.37612626, 0.11283579, -0.026853347, 0.0051871622, -0.00079978531, 7.8069032e-05),
        tail=(0.1286485, 0.63515127, 0.10623693, -0.023762079, 0.0036424433, -0.00032279186, 1.1229039e-05),
    ),
    np.dtype(np.float64): Constants(
        unsigned="u8", fraction_bits=52, shifter=6755399441055744.0, shifter_less_bias=0x4338000000000000 - 2 * 1023,
        ln2_high=0.693147180369123816490, ln2_low=1.90821492927058770002e-10, least=-746.0, most=710.0, erf_is_1=6.0,
        exp=(0.5000000000000011, 0.16666666666666405, 0.04166666666652737, 0.008333333333497808,
             0.0013888888944468653, 0.00019841269501357495, 2.4801492136817482e-05, 2.7557589166131155e-06,
             2.763062063676235e-07, 2.4999780552505882e-08),
        tanh=(-0.33333333333332316, 0.13333333333168707, -0.05396825387607851, 0.021869485974787186,
              -0.008863194503882595, 0.0035917196956794227, -0.001453216746903537, 0.0005791369842716378,
              -0.00021030234479730507, 5.102143865829893e-05),
        erf=(0.12837916709551256, -0.3761263890318352, 0.11283791670944185, -0.02686617064311145,
             0.005223977606118397, -0.0008548325929312908, 0.0001205529357691112, -1.4924712303200864e-05,
             1.6447131596542416e-06, -1.6206314020901686e-07, 1.3710981784571833e-08, -7.77947147084308e-10),
        tail=(0.12837920019419782, 0.6366193749371223, 0.10277484563377288, -0.019136353364488073,
              -0.00018965215395640452, 0.0016602118379677926, -0.0005388853777769153, -3.178823536997048e-05,
              0.00011647159993898058, -6.742170931379016e-05, 2.5280810903970266e-05, -7.08528878298098e-06,
              1.5415775237122743e-06, -2.615364736092547e-07, 3.409975599613889e-08, -3.307312662339013e-09,
              2.249171981123249e-10, -9.569593938168303e-12, 1.9159829678985367e-13),
    ),
}  # fmt: skip


def exp(x: Array) -> Array:
    c, real = OF[x.dtype], x.dtype.type
    within = np.clip(x, real(c.least), real(c.most))
    shifted = within * real(LOG2_E) + real(c.shifter)
    k = shifted - real(c.shifter)
    r = (within - k * real(c.ln2_high)) - k * real(c.ln2_low)
    y = 1 + (r + r * r * _polynomial(c.exp, r))
    both = shifted.view(c.unsigned) - shifted.view(c.unsigned).dtype.type(c.shifter_less_bias)
    one = both >> 1
    for exponent in (one, both - one):
        y *= (exponent << c.fraction_bits).view(x.dtype)
    return y


def tanh(x: Array) -> Array:
    size = np.abs(x)
    square = size * size
    far = 1 - 2 / (exp(2 * size) + 1)
    near = size + size * (square * _polynomial(OF[x.dtype].tanh, square))
    return np.copysign(np.where(size < x.dtype.type(TANH_FAR), near, far), x)


def erf(x: Array) -> Array:
    c = OF[x.dtype]
    within = np.minimum(np.abs(x), x.dtype.type(c.erf_is_1))
    far = 1 - exp(-(within + within * _polynomial(c.tail, within)))
    near = within + within * _polynomial(c.erf, within * within)
    return np.copysign(np.where(within < ERF_FAR, near, far), x)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Return the sum of coefficients[i] x^i, by Horner's rule."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total *= x
        total += x.dtype.type(coefficient)
    return total
