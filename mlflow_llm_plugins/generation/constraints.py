"""Answers of a given form, by llguidance: which tokens may come next, and whether anything may."""

from __future__ import annotations

from typing import Any

import torch

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation.requests import Constraint


class ConstraintMatcher:
    """How far one answer has come in its form; belongs to one request."""

    @property
    def is_finished(self) -> bool:
        """Whether the answer is complete and no token may follow but an end token."""
        raise NotImplementedError

    def allowed(self) -> torch.Tensor:
        """[vocab] bool, on the CPU: the tokens that may come next; end tokens where the answer may end here."""
        raise NotImplementedError

    def accept(self, token_id: int) -> None:
        """Note the token that was picked; one of `allowed`, and no end token."""
        raise NotImplementedError


class ConstraintCompiler:
    """Makes matchers for one tokenizer; its tables are built at the first constraint, once. Thread-safe."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        """Take the tokenizer and the width of the logits."""

    def matcher(self, constraint: Constraint, eos_token_ids: frozenset[int]) -> ConstraintMatcher:
        """A new matcher at the beginning of an answer; end tokens are those of the request.

        Raises:
            UnsupportedFeatureError: Names what the form has that cannot be honoured, and why.
            InvalidInputError: The form itself is wrong.
        """
        raise UnsupportedFeatureError("Constraints are not supported yet.")
