"""A metric made from criteria: a language model reads each row and chooses one of given verdicts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.chosen import ChosenJudge
from mlflow_llm_plugins.metrics.judge.columns import TARGETS, check_columns, signature
from mlflow_llm_plugins.metrics.judge.examples import parse_examples
from mlflow_llm_plugins.metrics.judge.prompt import Prompt
from mlflow_llm_plugins.metrics.judge.report import share_key
from mlflow_llm_plugins.metrics.judge.run import judge_rows
from mlflow_llm_plugins.metrics.judge.scale import Scale, described, parse_scale
from mlflow_llm_plugins.metrics.judge.settings import JudgeSettings, correction_of
from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores

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
    chosen = ChosenJudge(settings.name, judge)
    return LLMMetric(
        eval_fn=_eval_fn(settings, chosen),
        name=settings.name,
        greater_is_better=greater_is_better,
        main=_main(parsed),
        version=version,
        metric_details=f"{_DETAILS} Criteria: {settings.prompt.criteria}",
        metric_metadata={**settings.record(), "judge": chosen.record},  # which tells more once it was asked
        prepare=chosen.prepare,
    )


def _eval_fn(settings: JudgeSettings, chosen: ChosenJudge) -> Callable[..., RowScores]:
    """A function with the parameters that the columns ask for; MLflow reads their names."""
    columns = settings.prompt.columns
    parameters = signature(columns)

    def eval_fn(*args: Any, **kwargs: Any) -> RowScores:
        given = parameters.bind(*args, **kwargs).arguments
        shown = {column: list(given[column]) for column in columns}
        targets = None if given.get(TARGETS) is None else list(given[TARGETS])
        with chosen.asked(given.get("engine")) as backend:
            return judge_rows(settings, backend, shown, targets)

    eval_fn.__name__ = eval_fn.__qualname__ = settings.name
    eval_fn.__signature__ = parameters  # type: ignore[attr-defined]
    return eval_fn


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
