"""Judged examples: their own keys beside those of the columns."""

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.examples import parse_examples


@pytest.mark.parametrize("column", ["verdict", "explanation"])
def test_a_column_with_the_name_of_a_key_of_examples_is_refused_where_there_are_examples(column):
    example = {"predictions": "a", column: "Yes", "verdict": "Yes"}
    with pytest.raises(InvalidInputError) as error:
        parse_examples([example], ("predictions", column), ["Yes", "No"])
    assert f"examples: the column {column!r} has the name of a key" in str(error.value)
    assert f"evaluator_config={{'col_mapping': {{'other_{column}': {column!r}}}}}" in str(error.value)
    assert parse_examples([], ("predictions", column), ["Yes", "No"]) == ()
