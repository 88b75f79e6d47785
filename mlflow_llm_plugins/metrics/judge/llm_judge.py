"""A metric made from criteria: a language model reads each row and chooses one of given verdicts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.columns import TARGETS, check_columns, signature
from mlflow_llm_plugins.metrics.judge.examples import parse_examples
from mlflow_llm_plugins.metrics.judge.prompt import Prompt
from mlflow_llm_plugins.metrics.judge.question import JudgeBackend
from mlflow_llm_plugins.metrics.judge.report import share_key
from mlflow_llm_plugins.metrics.judge.run import judge_rows
from mlflow_llm_plugins.metrics.judge.scale import Scale, described, parse_scale
from mlflow_llm_plugins.metrics.judge.settings import JudgeSettings, correction_of
from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores

_logger = logging.getLogger(__name__)

JUDGE_VARIABLE = "MLFLOW_LLM_JUDGE"
_THE_EVALUATED = "the model under evaluation"
_DETAILS = (
    "A language model chooses one verdict a row. A local one is read by the log-probabilities of the verdicts, "
    "weighted as in G-Eval (Liu et al., 2023), so that no verdict is invalid."
)


def llm_judge(
    name: str,
    criteria: str,
    *,
    rubric: str | Mapping[Any, str] | None = None,
    scale: Any = (1, 5),
    judge: Any = None,
    columns: Sequence[str] = ("inputs", "predictions"),
    examples: Sequence[Mapping[str, Any]] = (),
    bias_correction: str | None = None,
    rationale: bool = False,
    control_rows: bool = True,
    greater_is_better: bool = True,
    version: str | None = "v1",
) -> LLMMetric:
    """Make a judge.

    The score of a row is the probability-weighted value of the verdicts (of "yes/no" the probability of yes), and the
    chosen label where choices have no order. Beside it the table gets `choice`, `confidence`, `margin`, `choice_mass`
    (the probability that the judge wants to answer with any verdict at all; `low_choice_mass` below 0.1), `suspicious`
    (a flag for texts that look like an attempt on the judge, which changes no score) and the raw `logprobs`.

    Args:
        name: The metric's key in results.
        criteria: What a good answer is.
        rubric: When to give which verdict: a text, or label -> description, which helps small judges most.
        scale: (1, 5) or "1-5"; a list of labels; label -> what it counts; "yes/no".
        judge: Who judges, see `backends.backend_of`: the URI of a model, a deployment, an endpoint, a server, a
            function. None: what the environment variable MLFLOW_LLM_JUDGE names, else in the evaluator `llm` the model
            under evaluation itself, with a warning.
        columns: What the judge sees: `predictions`, `inputs`, `targets`, `context` or any other column.
        examples: Judged cases: a text for each column, `verdict`, perhaps `explanation`.
        bias_correction: "contextual" divides by what labels get without a case, "two_orders" asks again with the
            options in reverse, "none". None: contextual for yes/no and choices where the judge tells probabilities,
            else none.
        rationale: Have the judge write why, after the verdict, which does not depend on it; becomes the justification.
        control_rows: Ask about up to 12 more cases whose verdict is known: `control_gap` and `control_attack_gain`, as
            shares of the scale, tell whether the judge can be trusted. They count in no mean.
        greater_is_better: Whether a good answer gets a greater value.
        version: Part of the key in results.

    Raises:
        InvalidInputError: Names the argument, what is allowed, and what was given.
    """
    parsed = parse_scale(scale)
    if isinstance(rubric, Mapping):
        parsed = described(parsed, rubric)
    names = check_columns(columns)
    settings = JudgeSettings(
        name=_checked_name(name),
        prompt=Prompt(
            criteria=_text("criteria", criteria),
            rubric=_text("rubric", rubric) if rubric is not None and not isinstance(rubric, Mapping) else "",
            scale=parsed,
            columns=names,
            examples=parse_examples(examples, names, parsed.labels),
        ),
        bias_correction=correction_of(bias_correction, parsed.kind),
        is_correction_asked_for=bias_correction is not None,
        rationale=_flag("rationale", rationale),
        control_rows=_flag("control_rows", control_rows),
        greater_is_better=_flag("greater_is_better", greater_is_better),
    )
    backend = _backend(judge)
    told = backend.describe() if backend is not None else {"model": _THE_EVALUATED}
    return LLMMetric(
        eval_fn=_eval_fn(settings, backend),
        name=settings.name,
        greater_is_better=greater_is_better,
        main=_main(parsed),
        version=version,
        metric_details=f"{_DETAILS} Criteria: {settings.prompt.criteria}",
        metric_metadata={**settings.record(), "judge": dict(told)},
        prepare=lambda engine: _prepare(settings, backend or _backend(None), engine),
    )


def _eval_fn(settings: JudgeSettings, backend: JudgeBackend | None) -> Callable[..., RowScores]:
    """A function with the parameters that the columns ask for; MLflow reads their names."""
    columns = settings.prompt.columns
    parameters = signature(columns)

    def eval_fn(*args: Any, **kwargs: Any) -> RowScores:
        given = parameters.bind(*args, **kwargs).arguments
        asked = backend or _backend(None) or _self_judging(settings.name, given.get("engine"))
        shown = {column: list(given[column]) for column in columns}
        targets = None if given.get(TARGETS) is None else list(given[TARGETS])
        return judge_rows(settings, asked, shown, targets)

    eval_fn.__name__ = eval_fn.__qualname__ = settings.name
    eval_fn.__signature__ = parameters  # type: ignore[attr-defined]
    return eval_fn


def _prepare(settings: JudgeSettings, backend: JudgeBackend | None, engine: Any) -> None:
    """Load a judge of this process, and refuse to go on without any."""
    if backend is None:
        _require_judge(settings.name, engine)
    elif callable(load := getattr(backend, "control_tokens", None)):
        load()


def _backend(judge: Any) -> JudgeBackend | None:
    """Who was named, here or in the environment; None if nobody was."""
    named = judge if judge is not None else os.environ.get(JUDGE_VARIABLE) or None
    if named is None:
        return None
    from mlflow_llm_plugins.metrics.judge.backends import backend_of

    return backend_of(named)


def _require_judge(name: str, engine: Any) -> None:
    if engine is None:
        raise InvalidInputError(
            f"{name} needs a judge: give judge=..., for example 'models:/judge/1' or 'http://localhost:8000/v1', or "
            f"set the environment variable {JUDGE_VARIABLE}. Only in the evaluator 'llm' a model of the flavor "
            "quantized_llm can judge itself."
        )


def _self_judging(name: str, engine: Any) -> JudgeBackend:
    _require_judge(name, engine)
    from mlflow_llm_plugins.metrics.judge.backends.local import LocalJudge

    _logger.warning(
        "%s: the model under evaluation judges its own answers, as no judge was given. Models prefer what they would "
        "have written: give judge=... or set %s before you compare models.",
        name, JUDGE_VARIABLE,
    )  # fmt: skip
    return LocalJudge(engine)


def _main(scale: Scale) -> str:
    return "mean" if scale.values is not None else share_key(scale.labels[0], scale.labels)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.\-]*", name, re.ASCII):
        raise InvalidInputError(
            f"name must begin with a letter and have only letters, digits, '_', '-' and '.', got {name!r}."
        )
    return name


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"{what} must be a text, got {value!r}.")
    return value.strip()


def _flag(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInputError(f"{what} must be True or False, got {value!r}.")
    return value
