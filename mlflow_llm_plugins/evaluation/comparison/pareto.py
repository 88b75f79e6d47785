"""Which of several points no other one beats."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]], greater_is_better: tuple[bool, bool]) -> list[int]:
    """The points that no other one equals or beats in both coordinates and beats in one.

    Args:
        points: Finite coordinates.
        greater_is_better: For each coordinate; False: smaller is.

    Returns:
        Their positions in `points`, by the first coordinate from better to worse. Equal points are all in it.
    """
    signs = [1 if greater else -1 for greater in greater_is_better]
    values = [(signs[0] * x, signs[1] * y) for x, y in points]
    front = [i for i, point in enumerate(values) if not any(_beats(other, point) for other in values)]
    return sorted(front, key=lambda i: values[i], reverse=True)


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other != point and other[0] >= point[0] and other[1] >= point[1]
