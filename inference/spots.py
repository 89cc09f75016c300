"""Points and boxes on an image, as a user gives them to correct a mask or to ask about a spot. No torch."""

import math
from dataclasses import dataclass

import numpy as np

from groundscore.errors import UserError


@dataclass(frozen=True)
class Point:
    """A point in pixels of the image, (0, 0) at its upper left; inside: whether the mask shall cover it."""

    x: float
    y: float
    inside: bool = True


@dataclass(frozen=True)
class Spots:
    """Points and at most one box (left, top, right, bottom), in pixels of the image."""

    points: tuple[Point, ...] = ()
    box: tuple[float, float, float, float] | None = None

    def checked(self, size: tuple[int, int]) -> "Spots":
        """Returns the same with what of the box lies outside an image of `size`, (H, W), cut off.

        Raises `UserError` for what says nothing about this image.
        """
        height, width = size
        if not self.points and self.box is None:
            raise UserError("give a point or a box: there is none")
        for point in self.points:
            if not (_is_number(point.x) and _is_number(point.y)):
                raise UserError(f"the point ({point.x}, {point.y}) is not two numbers")
            if not (0 <= point.x < width and 0 <= point.y < height):
                where = f"({point.x:g}, {point.y:g})"
                raise UserError(f"the point {where} is outside the image, which is {width} wide and {height} high")
        return Spots(self.points, None if self.box is None else _clipped(self.box, size))

    def missed(self, mask: np.ndarray) -> str | None:
        """What the user should be told when a mask, bool [H, W], does not do what the points say, else None."""
        wrong = [point for point in self.points if bool(mask[int(point.y), int(point.x)]) != point.inside]
        if not wrong:
            return None
        left_out = [f"({each.x:.0f}, {each.y:.0f})" for each in wrong if each.inside]
        left_in = [f"({each.x:.0f}, {each.y:.0f})" for each in wrong if not each.inside]
        words = [f"does not cover {' and '.join(left_out)}"] if left_out else []
        words += [f"still covers {' and '.join(left_in)}"] if left_in else []
        return f"The mask {' and '.join(words)}: the mask decoder follows its points only as far as it was trained to."

    def __str__(self) -> str:
        words = [f"{'point' if each.inside else 'not'} ({each.x:.0f}, {each.y:.0f})" for each in self.points]
        if self.box is not None:
            left, top, right, bottom = self.box
            words.append(f"box ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f})")
        return ", ".join(words)


def _clipped(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    if len(box) != 4 or not all(map(_is_number, box)):
        raise UserError(f"a box is four numbers, left, top, right, bottom, not {box}")
    height, width = size
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise UserError(
            f"the box ({left:g}, {top:g}) to ({right:g}, {bottom:g}) is empty: it goes from its upper left to its "
            "lower right corner"
        )
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        raise UserError(f"the box is outside the image, which is {width} wide and {height} high")
    return left, top, right, bottom


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
