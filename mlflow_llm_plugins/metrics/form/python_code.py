"""Whether an answer is Python by its syntax. It is parsed, never executed, compiled or imported."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable
from typing import Any

from mlflow_llm_plugins.metrics.form.check import check_each
from mlflow_llm_plugins.metrics.form.fences import code_blocks
from mlflow_llm_plugins.metrics.metric import LLMMetric, NotScoredError, RowScores

_LANGUAGES = ("python", "py", "python3")


def python_syntax_ok(extract_code: bool = True, *, name: str = "python_syntax_ok") -> LLMMetric:
    """1 where the answer's code parses with the grammar of the running Python, else 0 with the kind of error and line.

    A single word of prose is Python, too; and code that parses may still fail. Code that is nested too deeply for
    Python's parser has no score.

    Args:
        extract_code: Where the answer has fenced blocks, parse these, each for itself: those marked as Python, or all
            without a language where none is marked so. False: always the whole answer.
        name: Another one where a second such metric takes part.
    """

    def check(text: str) -> str | None:
        blocks = _blocks(text) if extract_code else []
        problem = _problem(blocks or [text])
        # A line of tildes may also stand in a docstring, under a title: then the whole answer is the code.
        return None if problem and blocks and _syntax_problem(text) is None else problem

    def eval_fn(predictions: Iterable[Any]) -> RowScores:
        return check_each(check, predictions)

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=True,
        metric_details="1 where all code of the answer parses with ast.parse, else 0.",
        metric_metadata={"extract_code": extract_code},
    )


def _blocks(text: str) -> list[str]:
    blocks = code_blocks(text)
    marked = [block.code for block in blocks if block.language in _LANGUAGES]
    unmarked = [block.code for block in blocks if not block.language]
    return marked or unmarked


def _problem(codes: list[str]) -> str | None:
    if not any(code.strip() for code in codes):
        return "no code"
    for number, code in enumerate(codes, 1):
        if problem := _syntax_problem(code):
            return f"{problem} of block {number}" if len(codes) > 1 else problem
    return None


def _syntax_problem(code: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as SyntaxWarning for "\d"
            ast.parse(code)
    except SyntaxError as error:
        return f"{type(error).__name__} in line {error.lineno or 1}"
    except ValueError:  # a null byte (before Python 3.12) or half a surrogate pair
        return "a character that no Python source may have"
    except (RecursionError, MemoryError):
        raise NotScoredError("the code is nested too deeply to be parsed") from None
    return None
