"""Values with their derivatives: forward-mode automatic differentiation over arrays of faces.

A measure is a small formula over a few landmarks. Written with `Quantity`, the formula yields its value and,
by the chain rule, the derivative with respect to each landmark that it uses, from which `uncertainty`
computes a standard error to first order (Griewank and Walther 2008, "Evaluating Derivatives", chapter 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Gradient = Mapping[int, Floats | float]
"""Derivatives, (N,) or one number for all, by variable; `reference_frame` numbers the variables."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number for each of N faces, and its derivatives."""

    value: Floats  # (N,)
    gradient: Gradient  # derivatives with respect to the variables that the value depends on

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
    """Return the quantity of a value (N,) whose derivatives are a weighted sum of those of others.

    Terms are partial derivatives, (N,) or one number, each with the quantity that it belongs to.
    """
    gradient: dict[int, Floats | float] = {}
    with np.errstate(invalid="ignore"):  # a ratio of two zeros has no derivative
        for weight, quantity in terms:
            for variable, slope in quantity.gradient.items():
                part = weight * slope
                gradient[variable] = gradient[variable] + part if variable in gradient else part
    return Quantity(value, gradient)


def mean(quantities: Sequence[Quantity]) -> Quantity:
    """Return the mean of quantities."""
    weight = 1 / len(quantities)
    value = sum((quantity.value for quantity in quantities[1:]), quantities[0].value) * weight
    return combine([(weight, quantity) for quantity in quantities], value)


def hypotenuse(x: Quantity, y: Quantity) -> Quantity:
    """Return the length of the vector (x, y); its derivative is 0 where the length is."""
    length = np.hypot(x.value, y.value)
    safe = np.where(length > 0, length, 1.0)
    return combine([(x.value / safe, x), (y.value / safe, y)], length)


def arctangent(y: Quantity, x: Quantity) -> Quantity:
    """Return the angle of the vector (x, y), radians, -pi to pi."""
    square = x.value**2 + y.value**2
    safe = np.where(square > 0, square, 1.0)
    return combine([(x.value / safe, y), (-y.value / safe, x)], np.arctan2(y.value, x.value))


def polygon_area(points: Sequence[tuple[Quantity, Quantity]]) -> Quantity:
    """Return the area of a polygon with corners (x, y) in order, by the shoelace formula.

    Positive where the corners run clockwise as seen in an image (y points down); negative areas come from
    outlines that cross themselves.
    """
    terms = []
    following = [*points[1:], points[0]]
    for (x0, y0), (x1, y1) in zip(points, following, strict=True):
        terms.append(x0 * y1 - x1 * y0)
    return mean(terms) * (len(terms) / 2)
