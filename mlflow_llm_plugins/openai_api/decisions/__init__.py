"""Typed decisions on the wire: System One and OpenAI's Decisions, questions answered with probabilities of options.

A plug reads a request, renders each of its chats, has an engine score the labels behind each, and builds the answer
from the log-probabilities. Nothing is generated.
"""

from mlflow_llm_plugins.openai_api.decisions.faults import InvalidDecisionError, TooManyQuestionsError
from mlflow_llm_plugins.openai_api.decisions.label_ids import LabelIds, label_ids
from mlflow_llm_plugins.openai_api.decisions.layout import Layout, question_chats
from mlflow_llm_plugins.openai_api.decisions.limits import DecisionLimits
from mlflow_llm_plugins.openai_api.decisions.openai_decisions import decisions_answer, parse_decisions
from mlflow_llm_plugins.openai_api.decisions.questions import DecisionRequest, Option, Question
from mlflow_llm_plugins.openai_api.decisions.systemone import parse_systemone, systemone_answer
from mlflow_llm_plugins.openai_api.decisions.temperatures import read_temperatures

__all__ = [
    "DecisionLimits",
    "DecisionRequest",
    "InvalidDecisionError",
    "LabelIds",
    "Layout",
    "Option",
    "Question",
    "TooManyQuestionsError",
    "decisions_answer",
    "label_ids",
    "parse_decisions",
    "parse_systemone",
    "question_chats",
    "read_temperatures",
    "systemone_answer",
]
