"""From a form to a grammar that xgrammar follows to the letter.

xgrammar has readers of its own for JSON schemas and regexes, which skip what they do not know (keywords, flags,
boundaries) and let white space come without end. Here the same forms become EBNF, in which it has nothing to skip.
"""

from __future__ import annotations

from mlflow_llm_plugins.generation.openvino.prover.grammar.analysis import fault, finite
from mlflow_llm_plugins.generation.openvino.prover.grammar.ebnf import write
from mlflow_llm_plugins.generation.openvino.prover.grammar.expressions import (
    Expression,
    Grammar,
    Text,
    characters,
    choice,
)
from mlflow_llm_plugins.generation.openvino.prover.grammar.regexes import Regex
from mlflow_llm_plugins.generation.openvino.prover.grammar.schemas import SchemaReader

__all__ = [
    "Expression",
    "Grammar",
    "Regex",
    "SchemaReader",
    "Text",
    "characters",
    "choice",
    "fault",
    "finite",
    "write",
]
