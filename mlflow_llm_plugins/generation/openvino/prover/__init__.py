"""Constraints of the engine `openvino`: made into grammars, and proven before their requests join."""

from __future__ import annotations

from mlflow_llm_plugins.generation.openvino.prover.prover import GrammarProver

__all__ = ["GrammarProver"]
