"""Whether two models can be compared token by token: the same tokens of every text, and logits of the same ones."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_llm_plugins.errors import GenerationError, InvalidInputError
from mlflow_llm_plugins.metrics.engines import ScoringEngine
from mlflow_llm_plugins.metrics.likelihood.tokens import TokenText, drop_short, encode_cells

_SAMPLES = (  # scripts, numbers, blanks and symbols: where tokenizers differ
    "Is 22/7 > 3.14159? Yes, by 0.0013; it's 100% so.",
    "def square(x):\n\treturn x ** 2  # don't\n\n    pass",
    "Größe, naïve, œuvre, señor",
    "Ωμέγα Привет שלום مرحبا नमस्ते สวัสดี",
    "循环会重复执行。これは日本語です。안녕하세요",
    "🙂👩‍🚀 ½ ∑ﬁ",
)


def refuse_other_tokens(baseline: ScoringEngine, model: ScoringEngine) -> None:
    """Raise where two models can never be compared, by a few fixed texts and the width of their logits.

    Raises:
        InvalidInputError: They make other tokens of a text, or their vocabularies differ in size.
    """
    pairs = zip(*(encode_cells(_SAMPLES, "text", each.tokenizer)[0] for each in (baseline, model)), strict=True)
    for sample, (ours, theirs) in zip(_SAMPLES, pairs, strict=True):
        _refuse_difference(f"of {sample!r}", ours.ids if ours else [], theirs.ids if theirs else [])
    refuse_other_width(_width(baseline), _width(model))


def refuse_other_width(baseline: int, model: int) -> None:
    """Raise unless both models have as many logits a place.

    Raises:
        InvalidInputError: They have not.
    """
    if baseline != model:
        raise InvalidInputError(
            f"divergence: the baseline gives {baseline} logits a place and the model {model}; "
            "only models with the same vocabulary can be compared. Give both the same embedding size."
        )


def encode_alike(
    cells: Sequence[object], name: str, baseline: ScoringEngine, model: ScoringEngine
) -> tuple[list[TokenText | None], list[str | None]]:
    """The texts as tokens, which must be the same for both; see `encode_cells` and `drop_short`.

    Raises:
        InvalidInputError: Those of a row are not the same.
    """
    texts, reasons = encode_cells(cells, name, baseline.tokenizer)
    others, other_reasons = encode_cells(cells, name, model.tokenizer)
    for row, (ours, theirs) in enumerate(zip(texts, others, strict=True)):
        if ours is not None and theirs is not None:
            _refuse_difference(f"in row {row}", ours.ids, theirs.ids)
    both = [ours if theirs is not None else None for ours, theirs in zip(texts, others, strict=True)]
    return drop_short(both, [one or other for one, other in zip(reasons, other_reasons, strict=True)], name)


def _refuse_difference(where: str, baseline: Sequence[int], model: Sequence[int]) -> None:
    if baseline == model:
        return
    pairs = enumerate(zip(baseline, model, strict=False))
    place = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(baseline), len(model)))
    ours, theirs = (str(ids[place]) if place < len(ids) else "missing" for ids in (baseline, model))
    raise InvalidInputError(
        f"divergence: baseline and model must make the same tokens of every text, but {where} token {place} is "
        f"{ours} for the baseline and {theirs} for the model. Compare bits_per_byte of perplexity() instead."
    )


def _width(engine: ScoringEngine) -> int:
    part = next(iter(engine.logits([0, 0])), None)
    if part is None:
        raise GenerationError("An engine gave logits for 0 places, 1 were asked for.")
    return int(part.shape[1])
