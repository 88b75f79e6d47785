"""What this package does with a tokenizer has the same results with one that was read from files."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation.detokenize import Detokenizer
from mlflow_llm_plugins.generation.encoding import Encoder
from mlflow_llm_plugins.generation.requests import Constraint
from mlflow_llm_plugins.generation.sampling.constraints import ConstraintCompiler
from mlflow_llm_plugins.metrics.judge.backends.local.reader import control_strings
from mlflow_llm_plugins.metrics.likelihood.tokens import TextEncoder
from mlflow_llm_plugins.openai_api import ResponseParsing, TokenTexts, encode_prompt, parse_messages, render_chat
from mlflow_llm_plugins.openai_api.decisions.label_ids import label_ids
from mlflow_llm_plugins.openai_api.echo import Echo
from mlflow_llm_plugins.quantized_llm.prompts import PromptEncoder
from tests.openai_api.made_answers import made_answer
from tests.openai_api.response_templates import PLAIN_MARKS, SPECIAL_MARKS, ids_of, tokenizer_with
from tests.quantized_llm.file_tokenizer.made import KINDS, pair, read_by_both
from tests.quantized_llm.file_tokenizer.templates import TEMPLATES

each_kind = pytest.mark.parametrize("kind", KINDS)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CHAT = [
    {"role": "system", "content": "be <|im_end|> kind"},
    {"role": "user", "content": [{"type": "text", "text": "a <|im_"}, {"type": "text", "text": "end|> </s>b"}]},
    {"role": "assistant", "content": "<think>so</think>the </s> bath"},
    {"role": "user", "content": "and 好<end_of_turn>?"},
]


def of_both(kind, use):
    """What each of the two makes possible, or why not."""
    return [_outcome(use, tokenizer) for tokenizer in pair(kind)]


def _outcome(use, tokenizer):
    try:
        return use(tokenizer)
    except InvalidInputError as error:
        return str(error)


@each_kind
@settings(max_examples=40)
@given(data=st.data())
def test_answers_come_in_the_same_pieces(kind, data):
    ids = data.draw(st.lists(st.integers(0, len(pair(kind).ours) - 1), max_size=12))
    prompt = data.draw(st.lists(st.integers(0, len(pair(kind).ours) - 1), max_size=4))

    def pieces(tokenizer):
        detokenizer = Detokenizer(tokenizer, ("the", "\n\n"), prompt)
        return [*map(detokenizer.push, ids), detokenizer.flush()]

    theirs, ours = of_both(kind, pieces)
    assert ours == theirs


@each_kind
def test_tokens_have_the_same_bytes(kind):
    def texts(tokenizer):
        texts = TokenTexts(tokenizer)
        return [texts[token_id] for token_id in range(len(tokenizer) + 2)]

    theirs, ours = of_both(kind, texts)
    assert ours == theirs


@each_kind
@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("regex", r"[a-z]{2,5} (the|\d+)", "at the"),
        ("json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}}', '{"a": 12}'),
    ],
)
def test_constraints_allow_the_same_tokens(kind, form, value, text):
    def masks(tokenizer):
        matcher = ConstraintCompiler(tokenizer, len(tokenizer) + 3).matcher(Constraint(form, value), frozenset([2]))
        masks = [matcher.bits.tobytes()]
        for token_id in tokenizer(text, add_special_tokens=False).input_ids:
            if not matcher.bits[token_id // 32] >> (token_id % 32) & 1:
                break
            matcher.accept(token_id)
            masks.append(matcher.bits.tobytes())
        return masks

    theirs, ours = of_both(kind, masks)
    assert ours == theirs


@each_kind
@pytest.mark.parametrize("template", TEMPLATES)
def test_requests_have_the_same_prompt(kind, template):
    messages = parse_messages(CHAT)

    def prompt(tokenizer):
        try:
            return render_chat(tokenizer, messages, TEMPLATES[template], {"enable_thinking": False})
        except InvalidInputError:  # some vocabularies have no other way to write a control token
            return None

    theirs, ours = of_both(kind, prompt)
    assert ours == theirs


@pytest.mark.parametrize(
    "options",
    [
        {"chat_template_kwargs": {"padding": True, "documents": []}},
        {"reasoning_effort": "low"},
        {"tools": [TOOL]},
        {"chat_template": "{{ raise_exception('no ' ~ messages[0].role) }}"},
        {"chat_template": "{{ messages[0].content.nothing.at_all }}"},
        {"chat_template": "{% if %}"},
        {"chat_template": "{# nothing #}"},
    ],
    ids=lambda options: "-".join(options),
)
def test_requests_are_refused_in_the_same_words(options):
    theirs, ours = of_both("bytes", lambda tokenizer: render_chat(tokenizer, CHAT[-1:], **options))
    assert isinstance(theirs, str)
    assert ours == theirs


def test_a_tokenizer_without_a_template_cannot_read_messages():
    theirs, ours = of_both("byte-level", lambda tokenizer: render_chat(tokenizer, CHAT))
    assert ours == theirs
    assert ours.startswith("This model has no chat template")


@each_kind
def test_texts_are_scored_and_echoed_alike(kind):
    texts = ["the bath", "</s>the", "好 t<s>", "a"]

    def encoded(tokenizer):
        encoder, scored = Encoder(tokenizer), TextEncoder(tokenizer)
        return [
            [encoder.encode(text) for text in texts],
            [scored.encode(text) for text in texts],
            [encode_prompt(tokenizer, text) for text in texts],
            encoder.choice_rows(["the bath is ", "a"], [" hot", "hot"]),
            [Echo.of(tokenizer, encode_prompt(tokenizer, text)).text for text in texts],
        ]

    theirs, ours = of_both(kind, encoded)
    assert ours == theirs


@each_kind
def test_labels_and_control_tokens_are_the_same(kind):
    random_ids = random.Random(kind).choices(range(len(pair(kind).ours)), k=9)

    def found(tokenizer):
        return [control_strings(tokenizer), label_ids(tokenizer, random_ids, ["at", "the", "a"])]

    theirs, ours = of_both(kind, found)
    assert ours == theirs


def test_rows_become_prompts_alike():
    def prompts(tokenizer):
        encoder = PromptEncoder.for_context(tokenizer, "llm/v1/chat", "say {prompt}", None, 100)
        return [encoder.max_characters, encoder.row("hi<|end|>"), encoder.row(CHAT), encoder.raw("raw<|end|>")]

    theirs, ours = of_both("trained", prompts)
    assert ours == theirs


@pytest.mark.parametrize("response_template", [PLAIN_MARKS, SPECIAL_MARKS], ids=["plain", "special"])
@pytest.mark.parametrize(
    "text",
    [
        "<think>so it is</think>yes",
        'a<tool_call>{"name": "f", "arguments": {}}</tool_call>',
        "<|unused_0|>thought\nhm<|unused_1|>no<|end|>",
        "<|unused_2|>call:f{x: 1}<|unused_3|>",
        "<tool_call>broken</tool_call>",
    ],
)
def test_answers_are_told_apart_alike(tmp_path, response_template, text):
    tokenizer_with(response_template).save_pretrained(tmp_path)

    def parts(tokenizer):
        prompt = render_chat(tokenizer, CHAT[-1:])
        parsing = ResponseParsing.of(tokenizer, TokenTexts(tokenizer), prompt, [TOOL])
        read = parsing.read(made_answer(tokenizer, ids_of(tokenizer, text))[0])
        return [(part.field, part.text, part.call and part.call["function"]) for part in read]

    theirs, ours = map(parts, read_by_both(tmp_path))
    assert ours == theirs
    assert ours
