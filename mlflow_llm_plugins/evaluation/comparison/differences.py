"""What differs between a variant and the baseline, row against row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from mlflow_llm_plugins.evaluation.comparison.bootstrap import (
    INDICATIVE_BELOW,
    ROUNDING,
    BootstrapOptions,
    Interval,
    Numbers,
    mean_interval,
    quotient_difference_interval,
)
from mlflow_llm_plugins.evaluation.comparison.figures import common_rows, figure_over
from mlflow_llm_plugins.evaluation.comparison.measures import Measure
from mlflow_llm_plugins.evaluation.comparison.trial import Trial

Verdict = Literal["better", "worse", "unclear"]
_NO_INTERVAL = "a figure of all rows together: no interval"
_MEASURED_ONCE = (
    "measured once a variant, not repeated: resampled rows do not show that a machine was slower meanwhile"
)
_LEAST_ROWS = 10  # of fewer, an interval leaves out the truth twice as often as it says, or more
_LEAST_UNTIED = 6  # the fewest that can all be on one side with a probability below 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of one variant against the baseline; a line of the table."""

    metric: str
    variant: str
    baseline: str
    kind: str  # what `estimate` is
    n: int | None  # rows with a number on both sides
    dropped: int | None  # rows without one
    baseline_value: float  # over these n rows, as all that follows
    variant_value: float
    estimate: float
    low: float = math.nan
    high: float = math.nan
    method: str | None = None
    wins: int | None = None  # of the rows, those in which the variant is better; None where neither direction is
    ties: int | None = None
    losses: int | None = None
    # "unclear": the interval holds the value of no difference. None: there is nothing to judge by, see the note.
    verdict: Verdict | None = None
    note: str | None = None


def differences_table(
    trials: Sequence[Trial], baseline: str, measures: Sequence[Measure], options: BootstrapOptions
) -> pd.DataFrame:
    """A line or two for each metric and variant that both have; none without the baseline's rows."""
    base = next(trial for trial in trials if trial.name == baseline)
    others = [trial for trial in trials if trial is not base and trial.rows is not None]
    lines = [
        difference
        for measure in measures
        for other in (others if base.rows is not None else [])
        for difference in _differences(base, other, measure, options)
    ]
    columns = list(Difference.__dataclass_fields__)
    return pd.DataFrame([asdict(line) for line in lines], columns=columns, dtype=object)


def _differences(base: Trial, other: Trial, measure: Measure, options: BootstrapOptions) -> Iterator[Difference]:
    pair = _Pair.of(base, other, measure)
    if pair is not None and pair.is_perplexity:
        yield pair.of_perplexities(options)
        return
    if pair is not None:
        yield pair.of_means(options)
    has_figures = _main_figures(base, other, measure) is not None
    if has_figures and (pair is None or not measure.is_mean):
        yield _of_figures(base, other, measure)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Rows of both that have a number."""

    measure: Measure
    base: Trial
    other: Trial
    valid: np.ndarray
    a: Numbers  # the baseline's
    b: Numbers

    @classmethod
    def of(cls, base: Trial, other: Trial, measure: Measure) -> _Pair | None:
        if base.rows is None or other.rows is None or len(base.rows) != len(other.rows):
            return None
        a, b = measure.numbers(base.rows), measure.numbers(other.rows)
        if a is None or b is None:
            return None
        valid = np.isfinite(a) & np.isfinite(b)
        return cls(measure, base, other, valid, a[valid], b[valid])

    @property
    def is_perplexity(self) -> bool:
        return self.measure.tokens(self.base.rows) is not None

    def of_means(self, options: BootstrapOptions) -> Difference:
        scale = float(max(np.max(np.abs(self.a), initial=0.0), np.max(np.abs(self.b), initial=0.0)))
        interval = mean_interval(self.b - self.a, options, scale)
        line = self._line("difference of means", _mean(self.a), _mean(self.b), _mean(self.b - self.a))
        return self._judged(line, interval, 0.0)

    def of_perplexities(self, options: BootstrapOptions) -> Difference:
        """The ratio where both scored the same tokens; else bits per byte, which compare all the same."""
        tokens = self._both(self.measure.tokens)
        if tokens is None or not np.array_equal(*tokens):
            return self._of_bits(options)
        base, other = [(np.log(x) * n, n) for x, n in zip((self.a, self.b), tokens, strict=True)]
        logs = _quotient(base), _quotient(other)
        interval = quotient_difference_interval(base, other, options)
        ratio = Interval(_exp(interval.low), _exp(interval.high), interval.method)
        line = self._line("ratio of perplexities", _exp(logs[0]), _exp(logs[1]), _exp(logs[1] - logs[0]))
        return self._judged(line, ratio, 1.0)

    def _of_bits(self, options: BootstrapOptions) -> Difference:
        note = "other tokens than the baseline's, so perplexities do not compare"
        kind = "difference of bits per byte"
        bits, tokens = self._both(self.measure.bits_per_byte), self._both(self.measure.tokens)
        if bits is None or tokens is None or not all((each > 0).all() for each in bits):
            return replace(self._line(kind, math.nan, math.nan, math.nan), note=note)
        totals = [np.log2(x) * n for x, n in zip((self.a, self.b), tokens, strict=True)]
        base, other = [(total, total / rate) for total, rate in zip(totals, bits, strict=True)]
        interval = quotient_difference_interval(base, other, options)
        values = _quotient(base), _quotient(other)
        line = self._line(kind, *values, values[1] - values[0], rows=bits)
        return self._judged(replace(line, note=note), interval, 0.0)

    def _both(self, column: Callable[[pd.DataFrame], Numbers | None]) -> tuple[Numbers, Numbers] | None:
        """A column of both tables, in the valid rows; None where either lacks one."""
        base, other = column(self.base.rows), column(self.other.rows)
        if base is None or other is None or not self.valid.any():
            return None
        pair = base[self.valid], other[self.valid]
        return pair if all(np.isfinite(each).all() for each in pair) else None

    def _line(
        self, kind: str, base: float, other: float, estimate: float, rows: tuple[Numbers, Numbers] | None = None
    ) -> Difference:
        greater, n = self.measure.greater_is_better, len(self.a)
        a, b = rows or (self.a, self.b)  # what wins and losses are counted by
        line = Difference(
            *(self.measure.name, self.other.name, self.base.name, kind, n, len(self.valid) - n, base, other, estimate)
        )
        if greater is None:
            return line
        gain = b - a if greater else a - b
        rounding = ROUNDING * np.maximum(np.abs(a), np.abs(b))
        wins, losses = int((gain > rounding).sum()), int((gain < -rounding).sum())
        return replace(line, wins=wins, ties=n - wins - losses, losses=losses)

    def _judged(self, line: Difference, interval: Interval, nothing: float) -> Difference:
        verdict = _verdict(line.estimate, interval, nothing, self.measure.greater_is_better)
        reason = None if verdict is None else self._no_verdict(line)
        notes = [line.note, _about_rows(len(self.a)), _about_method(interval), reason]
        return replace(
            line,
            low=interval.low,
            high=interval.high,
            method=interval.method,
            verdict=verdict if reason is None else None,
            note="; ".join(note for note in notes if note) or None,
        )

    def _no_verdict(self, line: Difference) -> str | None:
        """Why the interval is nothing to judge by."""
        n, untied = len(self.a), (line.wins or 0) + (line.losses or 0)
        if self.measure.kind == "time":
            return f"no verdict: {_MEASURED_ONCE}"
        if n < _LEAST_ROWS:
            return f"no verdict of fewer than {_LEAST_ROWS} rows"
        if untied < _LEAST_UNTIED:
            return f"no verdict: {untied} rows differ, at least {_LEAST_UNTIED} must"
        return None


def _verdict(estimate: float, interval: Interval, nothing: float, greater_is_better: bool | None) -> Verdict | None:
    if interval.method is None or greater_is_better is None:
        return None
    if not interval.excludes(nothing):
        return "unclear"
    return "better" if (estimate > nothing) == greater_is_better else "worse"


def _main_figures(base: Trial, other: Trial, measure: Measure) -> tuple[float, float] | None:
    for key in measure.figure_keys:
        if key in base.figures and key in other.figures:
            return base.figures[key], other.figures[key]
    return None


def _of_figures(base: Trial, other: Trial, measure: Measure) -> Difference:
    """Of the same rows: where the figures that were logged are not, they are computed again."""
    common = common_rows([base, other], measure)
    values = [figure_over(trial, measure, common) for trial in (base, other)]
    if not any(_lacks(trial, measure, common) for trial in (base, other)):
        note = _NO_INTERVAL
    elif np.isfinite(values).all():
        note = f"computed again of the rows that both have; {_NO_INTERVAL}"
    else:
        note = "the variants have scores in other rows, and the figure cannot be computed again: no difference"
        values = [math.nan, math.nan]
    n, kind = int(common.sum()), f"difference of {measure.main or 'figures'}"
    base_value, value = values
    return Difference(
        *(measure.name, other.name, base.name, kind, n, len(common) - n, base_value, value, value - base_value),
        note=note,
    )


def _lacks(trial: Trial, measure: Measure, common: np.ndarray) -> bool:
    """Whether the variant's own figure is of other rows than these."""
    return trial.rows is None or not np.array_equal(measure.scored(trial.rows), common)


def _about_rows(n: int) -> str | None:
    if n < 2:
        return "fewer than two rows with a number on both sides: no interval"
    return f"indicative: fewer than {INDICATIVE_BELOW} rows" if n < INDICATIVE_BELOW else None


def _about_method(interval: Interval) -> str | None:
    if interval.method == "no variation":
        return "no variation between the rows' differences"
    return "percentile instead of BCa, which fails here" if interval.method == "percentile" else None


def _mean(values: Numbers) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _quotient(sums: tuple[Numbers, Numbers]) -> float:
    total = float(np.sum(sums[1]))
    return float(np.sum(sums[0])) / total if total else math.nan


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 or math.isnan(value) else math.inf
