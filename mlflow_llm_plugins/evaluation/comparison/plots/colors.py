"""A color and a hatch for each variant, the same in all plots."""

from __future__ import annotations

from collections.abc import Sequence

# Okabe and Ito's, which color-blind readers tell apart, without the yellow that paper swallows.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
_HATCHES = ("", "///", "xxx", "...")


def colors_of(variants: Sequence[str]) -> dict[str, str]:
    """By the order of the variants; after seven they come again."""
    return {name: _COLORS[position % len(_COLORS)] for position, name in enumerate(variants)}


def hatches_of(variants: Sequence[str]) -> dict[str, str]:
    """What tells the variants with the same color apart."""
    return {name: _HATCHES[position // len(_COLORS) % len(_HATCHES)] for position, name in enumerate(variants)}
