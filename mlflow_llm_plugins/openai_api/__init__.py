"""The wire: OpenAI's requests, answers and chunks as values. No HTTP, no torch, no mlflow, no engine.

A plug reads a request here, renders its prompt, hands token ids and `sampling` to an engine, and builds the
answer from whatever the engine returns.
"""

from mlflow_llm_plugins.openai_api.answers import chat_completion, text_completion, usage
from mlflow_llm_plugins.openai_api.chat import render_chat
from mlflow_llm_plugins.openai_api.choices import Choice
from mlflow_llm_plugins.openai_api.chunks import ChatChunks, Chunk, Chunks, CompletionChunks
from mlflow_llm_plugins.openai_api.constraints import AnswerForm
from mlflow_llm_plugins.openai_api.defaults import (
    check_generation_config,
    sampling_defaults,
    unhonoured,
    with_defaults,
)
from mlflow_llm_plugins.openai_api.echo import Echo
from mlflow_llm_plugins.openai_api.generated import Generated, GeneratedToken, NothingGenerated
from mlflow_llm_plugins.openai_api.messages import Message, parse_messages
from mlflow_llm_plugins.openai_api.prompts import Prompt, encode_prompt, parse_prompts
from mlflow_llm_plugins.openai_api.requests import ChatCompletionRequest, CompletionRequest, RequestOptions
from mlflow_llm_plugins.openai_api.responses import ResponseParsing
from mlflow_llm_plugins.openai_api.token_texts import TokenTexts
from mlflow_llm_plugins.openai_api.tools import Tool

__all__ = [
    "AnswerForm",
    "ChatChunks",
    "ChatCompletionRequest",
    "Choice",
    "Chunk",
    "Chunks",
    "CompletionChunks",
    "CompletionRequest",
    "Echo",
    "Generated",
    "GeneratedToken",
    "Message",
    "NothingGenerated",
    "Prompt",
    "RequestOptions",
    "ResponseParsing",
    "TokenTexts",
    "Tool",
    "chat_completion",
    "check_generation_config",
    "encode_prompt",
    "parse_messages",
    "parse_prompts",
    "render_chat",
    "sampling_defaults",
    "text_completion",
    "unhonoured",
    "usage",
    "with_defaults",
]
