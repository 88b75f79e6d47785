"""What judges are asked: cases of random words under one rubric, and a tokenizer to which English is no stranger.

Instructions are made of real words, so the tokenizer has those that all contenders use as a token each, as trained
tokenizers have; other text of theirs it reads byte by byte.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.models import Shape, random_model
from benchmarks.servers.artifacts import chat_tokenizer
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

CRITERIA = (
    "The answer must be right, must answer what was asked and nothing else, and must not leave out what the reader "
    "needs to act on it. A claim counts as right only where nothing that is known speaks against it. Style and length "
    "do not count."
)
LEVELS = (
    "wrong, or an answer to another question; following it would lead the reader into an error",
    "mostly wrong: a part of it is right, but the central claim is not, or it is not supported by anything",
    "half right: the central claim holds, but an important step, condition or exception is missing or wrong",
    "mostly right: all claims hold, and only a detail is missing or not precise enough to act on",
    "right in every respect: each claim holds, nothing that is needed is missing, and nothing else was added",
)
NUMBERS = {str(number): text for number, text in enumerate(LEVELS, 1)}
WORDS = dict(zip(("Wrong", "Mostly wrong", "Half right", "Right but incomplete", "Right in every respect"), LEVELS,
                 strict=True))  # fmt: skip
QUESTION_WORDS = 12
ANSWER_WORDS = (26, 166)  # drawn between these; with the marks around them a row has from 100 to 250 tokens

# The answer has 40 tokens where each word of the sentence is one.
SENTENCE_WORDS = 23
VERDICT = rf'\{{"score": [1-5], "justification": "( [A-Za-z]{{2,9}}){{{SENTENCE_WORDS}}}\."\}}'
VERDICT_TOKENS = 40
ROOM = 16  # tokens more, for words of several
JSON_REMINDER = 'Answer with JSON and nothing else: {"score": a number from 1 to 5, "justification": one sentence}'


@dataclass(frozen=True, slots=True)
class Cases:
    """Rows to be judged, each different from its first word on."""

    questions: Sequence[str]
    answers: Sequence[str]

    @classmethod
    def of(cls, tokenizer: Any, count: int) -> Cases:
        words = sorted(piece[1:] for piece in tokenizer.get_vocab() if piece.startswith("Ġ") and piece[1:].isalpha())
        draw = random.Random(0)
        questions = [" ".join(draw.choices(words, k=QUESTION_WORDS)) for _ in range(count)]
        return cls(questions, [" ".join(draw.choices(words, k=draw.randint(*ANSWER_WORDS))) for _ in range(count)])


class Listener:
    """A judge that only listens, to find out what others are asked."""

    def __init__(self) -> None:
        self.heard: list[Question] = []

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        self.heard += questions
        return [Opinion(choice=0) for _ in questions]

    def describe(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None: ...


def metric_of(judge: Any, rubric: Mapping[str, str], **options: Any) -> Any:
    """The judge under test."""
    from mlflow_llm_plugins.metrics import llm_judge

    scale = {label: value for value, label in enumerate(rubric, 1)} if rubric is WORDS else (1, len(rubric))
    return llm_judge("right", CRITERIA, rubric=rubric, scale=scale, judge=judge, **options)


def questions_of(cases: Cases, rubric: Mapping[str, str]) -> list[Question]:
    """What it asks about each row, and nothing beside the rows."""
    listener = Listener()
    metric_of(listener, rubric, bias_correction="none", control_rows=False)(cases.questions, cases.answers)
    return listener.heard


def written_prompts(cases: Cases) -> list[str]:
    """The same questions, to be answered with JSON."""
    return [replace(question, reminder=JSON_REMINDER).text() for question in questions_of(cases, NUMBERS)]


def stock_metric(model: str, parameters: Mapping[str, Any]) -> Any:
    """MLflow's own judge with the same criteria and rubric."""
    from mlflow.metrics.genai import make_genai_metric

    rubric = "\n".join(f"{label}: {text}" for label, text in NUMBERS.items())
    return make_genai_metric("right", CRITERIA, rubric, model=model, parameters=dict(parameters))


def judging_tokenizer(vocabulary: int) -> Any:
    """Of exactly so many tokens, those of all instructions among them."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    made_up = chat_tokenizer(vocabulary)
    text = made_up.backend_tokenizer
    ids = _vocabulary(sorted(made_up.get_vocab(), key=made_up.get_vocab().get), _pieces(text, _instructions()))
    own = Tokenizer(BPE(vocab=ids, merges=[], ignore_merges=True))
    own.pre_tokenizer, own.decoder = text.pre_tokenizer, text.decoder
    found = PreTrainedTokenizerFast(
        tokenizer_object=own,
        eos_token=made_up.eos_token,
        pad_token=made_up.pad_token,
        model_max_length=made_up.model_max_length,
    )
    found.chat_template = made_up.chat_template
    return found


def judging_model(shape: Shape) -> Any:
    """The same weights at every call."""
    return random_model(shape, "cpu")


def _instructions() -> Iterable[str]:
    nothing = Cases([""], [""])
    for rubric in (NUMBERS, WORDS):
        yield from rubric  # with and without a blank: that depends on the chat template
        yield from (f" {label}" for label in rubric)
        for question in questions_of(nothing, rubric):
            yield question.text().replace(question.nonce, "")
    yield JSON_REMINDER
    yield str(stock_metric("endpoints:/judge", {}).metric_details)
    yield "user:\nassistant:"  # of the chat template


def _pieces(text: Any, texts: Iterable[str]) -> list[str]:
    """Different ones, in their order."""
    split = text.pre_tokenizer.pre_tokenize_str
    return list(dict.fromkeys(piece for each in texts for piece, _ in split(each)))


def _vocabulary(tokens: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """The wanted pieces in place of made-up words; of those only such as begin with a space.

    A word can then go on with single letters only, which a model hardly picks: a sentence of n words has n tokens.
    """
    bytes_and_json = [token for token in tokens if not token.isalpha() or len(token) == 1]
    starting = [token for token in tokens if token.startswith("Ġ") and token[1:].isalpha()]
    kept = list(dict.fromkeys([*bytes_and_json, *wanted]))
    room = len(tokens) - len(kept)
    fill = [token for token in starting if token not in set(kept)][:room]
    fill += [f"Ġ{_letters(number)}" for number in range(room - len(fill))]
    return {token: number for number, token in enumerate([*kept, *fill])}


def _letters(number: int) -> str:
    """A word that no other number has, and that made-up words are not: all capitals."""
    return "".join(chr(ord("A") + number // 26**place % 26) for place in range(4))
