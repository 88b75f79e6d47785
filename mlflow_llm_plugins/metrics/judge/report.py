"""Verdicts as the scores, columns and figures of a metric, and the warnings that belong to them."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.metrics.judge.controls import ControlFigures
from mlflow_llm_plugins.metrics.judge.scale import Scale
from mlflow_llm_plugins.metrics.judge.settings import JudgeSettings
from mlflow_llm_plugins.metrics.judge.verdict import LOW_MASS, Probabilities, Verdict
from mlflow_llm_plugins.metrics.metric import RowScores, row_scores

_logger = logging.getLogger(__name__)

_SHARE = "share/"


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A verdict, or why there is none."""

    verdict: Verdict | None = None
    fault: str | None = None
    suspicious: str = ""

    def label(self, scale: Scale) -> str | None:
        """The chosen option."""
        return None if self.verdict is None else scale.labels[self.verdict.choice]

    @property
    def has_low_mass(self) -> bool | None:
        """Whether the judge hardly wanted to answer with any option; None where that is not known."""
        mass = None if self.verdict is None else self.verdict.choice_mass
        return None if mass is None else mass < LOW_MASS


def report(
    settings: JudgeSettings, rows: Sequence[JudgedRow], controls: ControlFigures | None, applied: str | None
) -> RowScores:
    """Put scores together.

    Args:
        settings: Of the judge.
        rows: One for each row of the data.
        controls: What control rows showed; None where there were none.
        applied: The bias correction that was used; None where nothing was asked.
    """
    scale = settings.prompt.scale
    figures = {**_figures(settings, rows), **_control_figures(controls)}
    columns = _columns(scale, rows, applied)
    reasons = [row.fault if row.verdict is None else row.verdict.rationale for row in rows]
    _warn(settings, rows, controls)
    if scale.values is None:
        return _labels(scale, rows, reasons, figures, columns)
    values = [_value(row, scale) for row in rows]
    honest = [value for row, value in zip(rows, values, strict=True) if value is not None and not row.suspicious]
    if honest:
        figures["mean_unsuspicious"] = math.fsum(honest) / len(honest)
    return row_scores(values, reasons, aggregates=figures, columns=columns)


def share_key(label: str, labels: Sequence[str]) -> str:
    """The aggregate that counts a label; MLflow's names have letters, digits and few signs (3.17)."""
    keys = [re.sub(r"[^\w.\- ]", "_", each, flags=re.ASCII) for each in labels]
    index = labels.index(label)
    key = keys[index]
    return f"{_SHARE}{key}" if keys.count(key) == 1 else f"{_SHARE}{key}_{index + 1}"


def _labels(
    scale: Scale,
    rows: Sequence[JudgedRow],
    reasons: list[str | None],
    figures: dict[str, float],
    columns: dict[str, list[Any]],
) -> RowScores:
    """Choices without an order: the scores are labels, and there are shares instead of a mean."""
    labels = [row.label(scale) for row in rows]
    counts = Counter(label for label in labels if label is not None)
    shares = {share_key(label, scale.labels): counts[label] / counts.total() for label in scale.labels if counts}
    return RowScores(
        scores=labels,  # with None where there is none, as MLflow has it
        justifications=reasons if any(reasons) else None,
        aggregate_results={**shares, **figures, "count": float(counts.total())},
        columns=columns,
    )


def _value(row: JudgedRow, scale: Scale) -> float | None:
    return None if row.verdict is None else row.verdict.value(scale)


def _figures(settings: JudgeSettings, rows: Sequence[JudgedRow]) -> dict[str, float]:
    verdicts = [row.verdict for row in rows if row.verdict is not None]
    masses = [verdict.choice_mass for verdict in verdicts if verdict.choice_mass is not None]
    agreed = [verdict.orders_agree for verdict in verdicts if verdict.orders_agree is not None]
    figures = {"suspicious": float(sum(bool(row.suspicious) for row in rows))}
    if masses:
        figures["choice_mass"] = math.fsum(masses) / len(masses)
        figures["low_choice_mass"] = float(sum(mass < LOW_MASS for mass in masses))
    if agreed:
        figures["order_agreement"] = sum(agreed) / len(agreed)
    return figures


def _control_figures(controls: ControlFigures | None) -> dict[str, float]:
    if controls is None or (controls.gap is None and controls.attack_gain is None):
        return {}
    known = {"control_gap": controls.gap, "control_attack_gain": controls.attack_gain}
    figures = {name: value for name, value in known.items() if value is not None}
    return {**figures, "control_failed": float(controls.is_failed)}


def _columns(scale: Scale, rows: Sequence[JudgedRow], applied: str | None) -> dict[str, list[Any]]:
    verdicts = [row.verdict for row in rows]
    columns: dict[str, list[Any]] = {
        "choice": [row.label(scale) for row in rows],
        "confidence": [verdict and verdict.confidence for verdict in verdicts],
        "margin": [verdict and verdict.margin for verdict in verdicts],
        "choice_mass": [verdict and verdict.choice_mass for verdict in verdicts],
        "low_choice_mass": [row.has_low_mass for row in rows],
        "suspicious": [row.suspicious for row in rows],
        "logprobs": [_json(scale, verdict.logprobs if verdict else None) for verdict in verdicts],
        "bias_correction": [_correction(verdict, applied) for verdict in verdicts],
    }
    if applied == "two_orders":
        columns["order_agreement"] = [verdict and verdict.orders_agree for verdict in verdicts]
        columns["reversed_logprobs"] = [_json(scale, v.reversed_logprobs if v else None) for v in verdicts]
    return columns


def _correction(verdict: Verdict | None, applied: str | None) -> str | None:
    """A verdict without probabilities cannot be corrected by what labels get without a case."""
    if verdict is None:
        return None
    return "none" if applied == "contextual" and verdict.logprobs is None else applied


def _json(scale: Scale, logprobs: Probabilities | None) -> str | None:
    """Label -> log-probability as the judge gave it, before any correction."""
    if logprobs is None:
        return None
    known = (logprob if math.isfinite(logprob) else None for logprob in logprobs)
    return json.dumps(dict(zip(scale.labels, known, strict=True)), ensure_ascii=False)


def _warn(settings: JudgeSettings, rows: Sequence[JudgedRow], controls: ControlFigures | None) -> None:
    low = sum(bool(row.has_low_mass) for row in rows)
    if low > len(rows) / 2:
        _logger.warning(
            "%s: in %d of %d rows the judge hardly wanted to answer with any of the verdicts (choice_mass below %s). "
            "Its scores may mean little; a larger or instruction-tuned judge helps.",
            settings.name, low, len(rows), LOW_MASS,
        )  # fmt: skip
    if controls is not None and controls.is_failed:
        _logger.warning(
            "%s: the judge fails its control rows (good less bad answers: %s of the scale; gained by orders in bad "
            "answers: %s). Do not trust its scores, or give control_rows=False where a good answer to the criteria is "
            "none that answers the question.",
            settings.name, _shown(controls.gap), _shown(controls.attack_gain),
        )  # fmt: skip


def _shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:+.2f}"
