"""Models of this process that answer each row for itself: those of our own flavor, seen as a Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mlflow_llm_plugins.errors import LLMError, UnsupportedFeatureError
from mlflow_llm_plugins.evaluation.predictions.features import Features
from mlflow_llm_plugins.evaluation.predictions.options import PredictOptions
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.predictions.sample import Sample
from mlflow_llm_plugins.generation import GenerationOutput
from mlflow_llm_plugins.openai_api.parameters import Neutral, is_neutral

# Fields of whole requests, with the values that ask for nothing: rows are the prompts, and get whole texts.
_NOT_OF_ROWS: dict[str, Neutral] = {
    "messages": (),
    "prompt": (),
    "chat_template_kwargs": ({},),
    "stream": (False,),
    "stream_options": ({},),
}


@runtime_checkable
class EachRow(Protocol):
    """What is asked of the implementation behind a pyfunc model."""

    def predict_each(
        self,
        rows: Sequence[Any],
        params: dict[str, Any] | None = None,
        *,
        max_in_flight: int | None = None,
        progress: bool = True,
    ) -> list[GenerationOutput | LLMError]:
        """An output or an error for each row."""


@dataclass(frozen=True, slots=True)
class EngineSource:
    """All rows in flight in one engine."""

    model: EachRow
    rows: Sequence[Any]
    params: Mapping[str, Any]
    max_in_flight: int | None

    @classmethod
    def of(cls, model: Any, features: Features, options: PredictOptions) -> EngineSource | None:
        """None where the model is none of these.

        Raises:
            UnsupportedFeatureError: `params` has what rows are not asked with; names it.
        """
        implementation = getattr(model, "_model_impl", None)
        if not isinstance(implementation, EachRow):
            return None
        _refuse_what_rows_cannot_have(options.params)
        return cls(implementation, features.inputs(options.input_column), options.params, options.max_in_flight)

    @property
    def can_stream(self) -> bool:
        """It knows the time of each token."""
        return True

    @property
    def runs_here(self) -> bool:
        """It does."""
        return True

    @property
    def gives_columns(self) -> bool:
        """Texts only."""
        return False

    def predict_all(self, *, progress: bool = True) -> list[Prediction]:
        """See `Source`."""
        return self._predict(self.rows, self.max_in_flight, progress)

    def predict_unloaded(self, size: int, seed: int = 0, *, progress: bool = True) -> list[Prediction | None]:
        """See `Source`."""
        sample = Sample.of(len(self.rows), size, seed)
        sample.warm_up(lambda row: self._predict([self.rows[row]], 1, False)[0])
        measured = self._predict([self.rows[row] for row in sample.rows], 1, progress)
        return sample.spread(measured, len(self.rows))

    def describe(self) -> dict[str, Any]:
        """See `Source`."""
        own = getattr(self.model, "max_in_flight", None)
        return {"source": "engine", "max_in_flight": self.max_in_flight or own, "params": dict(self.params)}

    def _predict(self, rows: Sequence[Any], max_in_flight: int | None, progress: bool) -> list[Prediction]:
        params = dict(self.params)
        answers = self.model.predict_each(rows, params, max_in_flight=max_in_flight, progress=progress)
        return [_prediction(answer) for answer in answers]


def _refuse_what_rows_cannot_have(params: Mapping[str, Any]) -> None:
    refused = [name for name, neutral in _NOT_OF_ROWS.items() if not is_neutral(params.get(name), neutral)]
    if refused:
        verb, pronoun = ("is", "it") if len(refused) == 1 else ("are", "them")
        raise UnsupportedFeatureError(
            f"{', '.join(refused)} {verb} not supported in params for rows, which are the prompts and get one whole "
            f"text each; leave {pronoun} out."
        )


def _prediction(answer: GenerationOutput | LLMError) -> Prediction:
    if isinstance(answer, LLMError):
        return Prediction(error=str(answer))
    return Prediction(
        output=answer.text,
        latency=answer.token_times[-1] if answer.token_times else None,
        token_times=answer.token_times,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
    )
