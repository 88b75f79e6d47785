"""Plots of a comparison: each a function from tables to a figure, or to None where there is nothing to draw."""
