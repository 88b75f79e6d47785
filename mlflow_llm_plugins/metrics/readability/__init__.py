"""Readability: how hard a text is to read, and how long it is, by textstat; nothing is fetched from a network."""

from mlflow_llm_plugins.metrics.readability.formulas import (
    ari_grade_level,
    coleman_liau_index,
    dale_chall,
    flesch_kincaid_grade_level,
    flesch_reading_ease,
    gunning_fog,
    linsear_write,
    sentence_count,
    smog_index,
    word_count,
)

__all__ = [
    "ari_grade_level",
    "coleman_liau_index",
    "dale_chall",
    "flesch_kincaid_grade_level",
    "flesch_reading_ease",
    "gunning_fog",
    "linsear_write",
    "sentence_count",
    "smog_index",
    "word_count",
]
