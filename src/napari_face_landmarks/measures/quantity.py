"""Values with their derivatives: forward-mode automatic differentiation over arrays of faces.

Measures are short formulas over a few landmarks. A formula over `Quantity` objects yields its value and, by
the chain rule, its derivatives with respect to the landmarks that it uses, from which `uncertainty` computes
a first-order standard error (Griewank and Walther 2008, "Evaluating Derivatives", chapter 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Gradient = Mapping[int, Floats | float]
"""Derivatives by variable number (see `reference_frame`), (N,) or a scalar for all faces."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value for each of N faces, with its derivatives."""

    value: Floats  # (N,)
    gradient: Gradient  # only of the variables that the value depends on

    def __add__(self, other: Quantity) -> Quantity:
        """Return the sum."""
        return combine([(1.0, self), (1.0, other)], self.value + other.value)

    def __sub__(self, other: Quantity) -> Quantity:
        """Return the difference."""
        return combine([(1.0, self), (-1.0, other)], self.value - other.value)

    def __neg__(self) -> Quantity:
        """Return the negative."""
        return combine([(-1.0, self)], -self.value)

    def __mul__(self, other: Quantity | float) -> Quantity:
        """Return the product."""
        if isinstance(other, Quantity):
            return combine([(other.value, self), (self.value, other)], self.value * other.value)
        return combine([(other, self)], self.value * other)

    def __truediv__(self, other: Quantity) -> Quantity:
        """Return the quotient; NaN or infinite where the divisor is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.value / other.value
            return combine([(1 / other.value, self), (-ratio / other.value, other)], ratio)


def combine(terms: Sequence[tuple[Floats | float, Quantity]], value: Floats) -> Quantity:
    """Apply the chain rule to a function of quantities.

    Terms are the function's partial derivatives, (N,) or scalar, each with its argument; `value` (N,) is the
    function's value.
    """
    gradient: dict[int, Floats | float] = {}
    with np.errstate(invalid="ignore"):  # a ratio of two zeros has no derivative
        for partial, quantity in terms:
            for variable, slope in quantity.gradient.items():
                term = partial * slope
                gradient[variable] = gradient[variable] + term if variable in gradient else term
    return Quantity(value, gradient)


def mean(quantities: Sequence[Quantity]) -> Quantity:
    """Return the mean of quantities."""
    weight = 1 / len(quantities)
    value = sum((quantity.value for quantity in quantities[1:]), quantities[0].value) * weight
    return combine([(weight, quantity) for quantity in quantities], value)


def hypotenuse(x: Quantity, y: Quantity) -> Quantity:
    """Return the length of the vector (x, y); its derivative is 0 where the length is 0."""
    length = np.hypot(x.value, y.value)
    safe = np.where(length > 0, length, 1.0)
    return combine([(x.value / safe, x), (y.value / safe, y)], length)


def arctangent(y: Quantity, x: Quantity) -> Quantity:
    """Return the angle of the vector (x, y) in radians, -pi to pi."""
    square = x.value**2 + y.value**2
    safe = np.where(square > 0, square, 1.0)
    return combine([(x.value / safe, y), (-y.value / safe, x)], np.arctan2(y.value, x.value))


def polygon_area(points: Sequence[tuple[Quantity, Quantity]]) -> Quantity:
    """Return the signed area of a polygon with corners (x, y), by the shoelace formula.

    Positive for corners in clockwise order as seen in an image (y points down); self-intersecting outlines
    can have negative areas.
    """
    terms = []
    following = [*points[1:], points[0]]
    for (x0, y0), (x1, y1) in zip(points, following, strict=True):
        terms.append(x0 * y1 - x1 * y0)
    return mean(terms) * (len(terms) / 2)
