"""Whether an answer is JSON, and as a schema wants it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from mlflow_llm_plugins.metrics.form.check import check_each
from mlflow_llm_plugins.metrics.form.fences import code_blocks
from mlflow_llm_plugins.metrics.form.schema import SchemaCheck
from mlflow_llm_plugins.metrics.metric import LLMMetric, NotScoredError, RowScores


def is_valid_json(
    schema: Mapping[str, Any] | bool | None = None, allow_fence: bool = False, *, name: str = "is_valid_json"
) -> LLMMetric:
    r"""1 where the whole answer is one JSON value (RFC 8259, so without NaN and Infinity), else 0; why not is told.

    A value that is nested too deeply for Python's parser has no score, nor one whose check against the schema takes
    longer than 2 seconds or meets a number too large for it.

    Args:
        schema: A JSON Schema that the value must meet, too; the newest draft unless `$schema` names one. References
            stay within the schema, and `format` is not checked. Patterns are in the syntax of the `regex` library:
            that of `re` and more, such as `\p{L}`.
        allow_fence: Take the inside of an answer that is one fenced block of Markdown with nothing around it.
        name: Another one where a second such metric takes part.

    Raises:
        InvalidInputError: The schema is none.
        MissingDependencyError: A schema is given and jsonschema is not installed, or regex where it has patterns.
    """
    check_schema = None if schema is None else SchemaCheck(schema)

    def check(text: str) -> str | None:
        return _problem(_unfenced(text) if allow_fence else text, check_schema)

    def eval_fn(predictions: Iterable[Any]) -> RowScores:
        return check_each(check, predictions)

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=True,
        metric_details="1 where the whole answer is one JSON value (RFC 8259) that meets the schema, if any; else 0.",
        metric_metadata={"schema": check_schema and check_schema.schema, "allow_fence": allow_fence},
    )


def _problem(text: str, check_schema: Callable[[Any], str | None] | None) -> str | None:
    try:
        value = _parsed(text, int if check_schema else str)
    except json.JSONDecodeError as error:
        what = error.msg.partition(":")[0]  # behind the colon comes the text
        return f"not JSON: {what}, line {error.lineno} column {error.colno}"
    except _NotOfJsonError as error:
        return f"not JSON: {error} is no JSON value"
    except RecursionError:
        raise NotScoredError("the prediction is nested too deeply to be parsed") from None
    except ValueError:  # int() refuses more digits than sys.get_int_max_str_digits()
        raise NotScoredError("the prediction has an integer too long to be compared with a schema") from None
    return check_schema(value) if check_schema else None


class _NotOfJsonError(Exception):
    pass


def _parsed(text: str, parse_int: Callable[[str], Any]) -> Any:
    return json.loads(text, parse_int=parse_int, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    """Python's parser takes NaN, Infinity and -Infinity, which JSON does not have."""
    raise _NotOfJsonError(constant)


def _unfenced(text: str) -> str:
    stripped = text.strip()
    blocks = code_blocks(stripped)
    if len(blocks) != 1 or blocks[0].is_list_item:
        return text
    is_whole = (blocks[0].first_line, blocks[0].last_line) == (0, stripped.count("\n"))
    return blocks[0].code if is_whole else text
