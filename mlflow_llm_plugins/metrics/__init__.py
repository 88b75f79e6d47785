"""Metrics of language models, each an `EvaluationMetric` of MLflow and usable alone on lists.

    from mlflow_llm_plugins.metrics import rouge1
    rouge1()(["a loop repeats"], ["a loop repeats statements"]).scores

To add one: a function that makes it, in a file of its family, and its name here. No module right below may have the
name of a metric, which it would hide.
"""

from __future__ import annotations

from typing import Any

from mlflow_llm_plugins.lookup import resolve

_PACKAGE = "mlflow_llm_plugins.metrics"
_FAMILIES = {  # module -> the functions in it that make a metric
    "form.json_text": ("is_valid_json",),
    "form.pattern": ("contains", "matches_regex"),
    "form.python_code": ("python_syntax_ok",),
    "form.refusal": ("is_refusal",),
    "form.repetition": ("repetition_rate",),
    "judge.llm_judge": ("llm_judge",),
    "judge.ready_made": ("answer_correctness", "answer_similarity", "conciseness", "faithfulness", "relevance"),
    "likelihood.divergence": ("divergence",),
    "likelihood.perplexity": ("perplexity",),
    "readability.formulas": (
        *("ari_grade_level", "coleman_liau_index", "dale_chall", "flesch_kincaid_grade_level", "flesch_reading_ease"),
        *("gunning_fog", "linsear_write", "sentence_count", "smog_index", "word_count"),
    ),
    "reference.distance": ("edit_distance",),
    "reference.hub_metric": ("evaluate_metric",),
    "reference.matching": ("exact_match", "token_f1"),
    "reference.ngrams": ("bleu", "chrf"),
    "reference.rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    "timing": ("inter_token_latency", "latency", "time_per_output_token", "time_to_first_token", "tokens_per_second"),
}
METRICS = {name: f"{_PACKAGE}.{module}:{name}" for module, names in _FAMILIES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a metric's family when it is first asked for: some need a second or more."""
    if name in METRICS:
        return resolve(name, METRICS, "metric")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*METRICS, "METRICS"]
