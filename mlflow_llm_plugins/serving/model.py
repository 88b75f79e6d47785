"""What a server needs of a model; the flavor's pyfunc model has it, and nobody here knows the flavor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from mlflow_llm_plugins.generation import GenerationEngine, GenerationOutput, GenerationRequest
from mlflow_llm_plugins.openai_api import Chunk, Chunks, Message, RequestOptions


class Work(Protocol):
    """What a request asks the engine for."""

    @property
    def options(self) -> RequestOptions:
        """The request's own options."""

    @property
    def prompts(self) -> Sequence[list[int]]:
        """Token ids of each prompt."""

    @property
    def requests(self) -> Sequence[GenerationRequest]:
        """One for each choice, prompt by prompt."""

    @property
    def is_scored(self) -> bool:
        """Whether the tokens of the prompts are to be scored, which `Completions.echoed` does."""

    def with_requests(self, requests: Sequence[GenerationRequest]) -> Work:
        """The same work by other requests, one in place of each."""


class Completions(Protocol):
    """Requests of OpenAI's API to generation requests, and outputs to answers; safe to use from many threads."""

    @property
    def engine(self) -> GenerationEngine:
        """What generates."""

    @property
    def model_name(self) -> str:
        """What answers carry as `model`."""

    def chat(self, body: Mapping[str, Any]) -> Work:
        """Read a chat; raises InvalidInputError."""

    def completion(self, body: Mapping[str, Any]) -> Work:
        """Read a completion; raises InvalidInputError."""

    def render(self, messages: Sequence[Message], template_kwargs: Mapping[str, Any] | None = None) -> list[int]:
        """Token ids of a conversation, up to where its answer begins."""

    def echoed(self, work: Any) -> Work:
        """The work with its prompts as answers repeat them, where they do; may score them, which takes a while."""

    def answer(self, work: Any, outputs: Sequence[GenerationOutput]) -> dict[str, Any]:
        """The whole answer, of the outputs of all of the work's requests in their order."""

    def chunks(self, work: Any) -> Chunks:
        """What builds the answer in pieces."""

    def scored_only(self, chunks: Chunks, work: Any) -> Iterable[Chunk]:
        """The chunks of choices for which nothing is generated."""

    def closing(self, chunks: Chunks, work: Any, outputs: Sequence[GenerationOutput]) -> list[Chunk]:
        """The last chunks of a stream."""


class ServedModel(Protocol):
    """The model inside MLflow's pyfunc model."""

    completions: Completions
    max_in_flight: int  # choices of one request that are in the engine at the same time
    decision_temperatures: Mapping[str, float]  # by type of question; 1 where one is missing
