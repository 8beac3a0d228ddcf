"""The error function, which NumPy has not: erf(x) = 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x.

    |x| up to 0.46875    x A(x^2)
    up to 4              1 - exp(-x^2) C(|x|)                           and its sign
    above                1 - exp(-x^2) (1 / sqrt(pi) - P(1 / x^2) / x^2) / |x|

A, C and P are quotients of polynomials, good to 1e-16.
Source: W. J. Cody, Rational Chebyshev approximations for the error function, 1969.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from math import pi, sqrt

import numpy as np

from npdp.autograd.tensor import Array

NEAR, FAR = 0.46875, 4.0
# Numerator and denominator, the highest power first
A = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)  # fmt: skip
C = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
P = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)  # fmt: skip


def erf(x: Array) -> Array:
    """Return erf(x), of any shape, in the dtype of x, float32 or float64; a new array."""
    size = np.abs(x)
    near, far = size <= NEAR, size > FAR
    y = np.empty_like(x)
    y[near] = x[near] * _quotient(A, x[near] ** 2)
    for where, rest in ((~near & ~far, _rest), (far, _far_rest)):
        y[where] = np.copysign(1 - rest(size[where]), x[where])
    return y


def _rest(x: Array) -> Array:
    return np.exp(-x * x) * _quotient(C, x)


def _far_rest(x: Array) -> Array:
    x = np.minimum(x, 10)  # exp(-100) and less is nothing beside 1
    inverse = 1 / (x * x)
    return np.exp(-x * x) * (1 / sqrt(pi) - inverse * _quotient(P, inverse)) / x


def _quotient(polynomials: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    numerator, denominator = (_polynomial(coefficients, x) for coefficients in polynomials)
    return numerator / denominator


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Return the polynomial in the dtype of x: Horner's rule."""
    y = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        y *= x
        y += x.dtype.type(coefficient)
    return y
