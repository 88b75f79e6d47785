"""Names under which a metric would lose one of its own figures."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins import metrics
from mlflow_llm_plugins.errors import InvalidInputError


@pytest.mark.parametrize(
    "make",
    [
        lambda: metrics.exact_match(name="count"),
        lambda: metrics.rouge1(name="variance"),
        lambda: metrics.evaluate_metric("wer", name="count"),
        lambda: metrics.perplexity(name="bits_per_byte"),
        lambda: metrics.bleu(name="corpus"),
        lambda: metrics.divergence("models:/a/1", name="p90"),
        lambda: metrics.word_count(name="mean"),
    ],
)
def test_no_metric_takes_the_name_of_its_own_figure(make):
    with pytest.raises(InvalidInputError, match=r"^A metric cannot be called '\w+', which is the name of one of its"):
        make()
