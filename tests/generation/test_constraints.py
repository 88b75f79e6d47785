"""Whatever picks among the tokens that a matcher allows, the answer has the form that was asked for."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.generation import Constraint
from mlflow_llm_plugins.generation.sampling.constraints import ConstraintCompiler, masks_of
from tests.models import BOS_ID, EOS_ID, FIRST_BYTE_ID, FIRST_UNUSED_ID, VOCAB_SIZE, byte_tokenizer

LOGITS = VOCAB_SIZE + 44  # wider than the tokenizer, and no multiple of 32
END_ID = 6  # <|end|>
ENDS = frozenset({EOS_ID, END_ID})
MOST_TOKENS = 200
SEEDS = range(25)
TOKENIZER = byte_tokenizer()
COMPILER = ConstraintCompiler(TOKENIZER, LOGITS)

JUDGE = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["yes", "no", 'un"clear']},
        "reason": {"type": "string", "maxLength": 30},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["verdict", "reason", "score"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 8}, "ill": {"type": ["boolean", "null"]}},
                "required": ["name", "ill"],
                "additionalProperties": False,
            },
        },
        "grid": {"type": "array", "maxItems": 2, "items": {"type": "array", "maxItems": 2, "items": {"const": 7}}},
    },
    "required": ["people", "grid"],
    "additionalProperties": False,
}
SCHEMAS = {
    "judge": JUDGE,
    "nested": NESTED,
    "enum": {"enum": ["a", "ab", 1, 10, None, {"k": ["ü\n"]}]},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"},
    "union": {"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 2}]},
    "reference": {"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer", "minimum": -3, "maximum": 12}}},
}
REGEXES = [
    r"(yes|no)",
    r"a{1,5}b?",
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "[\"'/\\\\]{2,9}\n?é",
    r"^[a-c]*[x-z]$",
    r"[一-三]{1,3}",
]
CHOICES = [
    ("yes", "no"),
    ("a", "ab", "abc"),
    ('say "hi"', "it's \\ \\n", "two\nlines\t", "/* .*? */"),
    ("ja", "jå", "你好", "👍", "👍🏽"),
    ("<|eos|>", "<|user|>hi", "^a$", ".*", "[x]{2}", "\x00", " "),
]
ARITHMETIC = """
start: sum
sum: term (("+" | "-") term){0,3}
term: NUMBER | "(" sum ")"
NUMBER: /[1-9][0-9]{0,2}/
"""


def constraint(kind, value):
    return Constraint(kind, json.dumps(value) if kind == "json_schema" else value)


def matcher(kind, value, ends=ENDS):
    return COMPILER.matcher(constraint(kind, value), ends)


def ids(text):
    return TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids


def allowed(m, width=LOGITS):
    return masks_of([m], torch.zeros(width))[0] == 0


def allowed_ids(m, width=LOGITS):
    return allowed(m, width).nonzero()[:, 0].tolist()


def any_of_them(seed):
    """Picks uniformly, so that no token has a small probability."""
    generator = random.Random(seed)
    return lambda m: generator.choice(allowed_ids(m))


def by_logits(seed):
    """Picks as a model with random weights would, from greedy to hot."""
    generator = torch.Generator().manual_seed(seed)
    temperature = (seed % 9) / 4

    def pick(m):
        logits = 4 * torch.randn(LOGITS, generator=generator)
        logits[~allowed(m)] = -torch.inf
        if not temperature:
            return int(logits.argmax())
        return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))

    return pick


def answers(start, ends=ENDS):
    """Texts of answers that came to their end, some by each way to pick."""
    texts = []
    for seed in SEEDS:
        for way in (any_of_them, by_logits):
            m, pick, picked = start(), way(seed), []
            while not m.is_finished and len(picked) < MOST_TOKENS and (not picked or picked[-1] not in ends):
                picked.append(pick(m))
                if picked[-1] not in ends:
                    m.accept(picked[-1])
            if m.is_finished or picked[-1] in ends:
                texts.append(TOKENIZER.decode([token for token in picked if token not in ends]))
    assert len(texts) > len(SEEDS)  # or the forms are too long to say anything
    return texts


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_under_a_json_schema_is_valid(name):
    schema = SCHEMAS[name]
    for text in answers(lambda: matcher("json_schema", schema)):
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("regex", REGEXES)
def test_an_answer_under_a_regex_matches_from_its_first_character_to_its_last(regex):
    for text in answers(lambda: matcher("regex", regex)):
        assert re.fullmatch(regex, text)


@pytest.mark.parametrize("choices", CHOICES)
def test_an_answer_under_choices_is_one_of_them_and_each_can_be_reached(choices):
    assert set(answers(lambda: matcher("choice", choices))) <= set(choices)
    for choice in choices:
        assert spelt(matcher("choice", choices), choice)


@settings(max_examples=60, deadline=None)
@given(choices=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5))
def test_any_text_can_be_a_choice(choices):
    for choice in choices:
        assert spelt(matcher("choice", tuple(choices)), choice)
    ends, m, pick, picked = ENDS, matcher("choice", tuple(choices)), any_of_them(len(choices)), []
    while not m.is_finished and (token := pick(m)) not in ends:
        m.accept(token)
        picked.append(token)
    assert TOKENIZER.decode(picked) in choices


def spelt(m, text):
    """Whether the matcher lets the whole text pass, and the answer end after it."""
    for token in ids(text):
        assert token in allowed_ids(m)
        m.accept(token)
    return m.is_finished or set(allowed_ids(m)) >= ENDS


def test_an_answer_under_a_lark_grammar_is_in_its_language():
    for text in answers(lambda: matcher("lark", ARITHMETIC)):
        assert isinstance(eval(text, {"__builtins__": {}}), int)
        assert set(text) <= set("0123456789+-()")


def test_json_has_no_space_between_its_parts():
    assert all(text == json.dumps(json.loads(text), separators=(",", ":")) for text in answers_in_ascii(NESTED))


def answers_in_ascii(schema):
    return [text for text in answers(lambda: matcher("json_schema", schema)) if text.isascii() and "\\" not in text]


class TestEnds:
    def test_each_end_token_of_the_request_is_allowed_where_the_answer_may_end_and_only_there(self):
        m = matcher("choice", ("a", "ab"))
        assert allowed_ids(m) == ids("a")
        m.accept(*ids("a"))
        assert allowed_ids(m) == sorted([EOS_ID, END_ID, *ids("b")])
        assert not m.is_finished
        m.accept(*ids("b"))
        assert allowed_ids(m) == [EOS_ID, END_ID]
        assert m.is_finished

    @pytest.mark.parametrize("ends", [frozenset(), frozenset({END_ID}), frozenset({LOGITS - 1, LOGITS + 7})])
    def test_the_tokenizer_s_own_end_token_is_none_where_the_request_has_others(self, ends):
        m = matcher("regex", "a+b?", ends)
        m.accept(*ids("a"))
        assert allowed_ids(m) == sorted([*ids("ab"), *(end for end in ends if end < LOGITS)])
        m.accept(*ids("b"))
        assert allowed_ids(m) == sorted(end for end in ends if end < LOGITS)
        assert m.is_finished

    def test_a_token_of_text_that_ends_the_answer_comes_only_at_its_end(self):
        (newline,) = ids("\n")
        m = matcher("regex", "(a|\n)b", frozenset({newline}))
        assert allowed_ids(m) == ids("a")
        m.accept(*ids("a"))
        m.accept(*ids("b"))
        assert allowed_ids(m) == [newline]

    def test_special_and_unused_tokens_never_come(self):
        m = matcher("regex", "(?s:.)*", frozenset({EOS_ID}))
        allowed = set(allowed_ids(m))
        assert EOS_ID in allowed
        assert allowed - {EOS_ID} <= set(range(FIRST_BYTE_ID, FIRST_UNUSED_ID))
        assert BOS_ID not in allowed

    def test_a_tokenizer_without_an_end_token_loses_none_of_its_tokens(self):
        tokenizer = byte_tokenizer()
        tokenizer.eos_token = None
        m = ConstraintCompiler(tokenizer, VOCAB_SIZE).matcher(Constraint("regex", "[a-z]+!"), frozenset())
        assert allowed_ids(m, VOCAB_SIZE) == list(range(ids("a")[0], ids("z")[0] + 1))


@pytest.mark.parametrize("width", [FIRST_UNUSED_ID, VOCAB_SIZE - 1, VOCAB_SIZE, VOCAB_SIZE + 1, 4096])
def test_masks_are_as_wide_as_the_logits_and_add_nothing_to_what_is_allowed(width):
    compiler = ConstraintCompiler(byte_tokenizer(), width)
    matchers = [compiler.matcher(Constraint("choice", (text,)), ENDS) for text in ("ab", "b", "zz")]
    matchers[1].accept(*ids("b"))
    masks = masks_of(matchers, torch.zeros(5, width, dtype=torch.bfloat16))
    assert (masks.shape, masks.dtype) == ((3, width), torch.bfloat16)
    expected = torch.full((3, width), -torch.inf, dtype=torch.bfloat16)
    for row, allowed_now in enumerate((ids("a"), sorted(ENDS), ids("z"))):
        expected[row, allowed_now] = 0
    assert torch.equal(masks, expected)
    with pytest.raises(ValueError, match=r"^The constraint was made for \d+ logits, and there are 9999\.$"):
        masks_of(matchers, torch.zeros(9999))


def test_matchers_of_one_compiler_know_nothing_of_each_other():
    first, second = matcher("choice", ("ab",)), matcher("choice", ("ab",))
    first.accept(*ids("a"))
    assert (allowed_ids(first), allowed_ids(second)) == (ids("b"), ids("a"))


def test_a_form_can_be_asked_for_again_after_it_was_followed():
    for kind, value in [("choice", ["ab", "cd"]), ("json_schema", JUDGE), ("regex", "[a-c]+")]:
        first = matcher(kind, value)
        at_the_beginning = allowed_ids(first)
        first.accept(at_the_beginning[0])
        assert allowed_ids(matcher(kind, value)) == at_the_beginning


def test_end_tokens_are_those_of_the_request_also_where_another_one_had_the_same_form():
    for ends in (ENDS, frozenset({END_ID}), frozenset()):
        m = matcher("choice", ("a",), ends)
        m.accept(*ids("a"))
        assert allowed_ids(m) == sorted(ends)


def test_many_threads_may_ask_for_the_first_matcher_at_once():
    compiler, barrier, found = ConstraintCompiler(byte_tokenizer(), LOGITS), threading.Barrier(8), []

    def ask(letter):
        barrier.wait(timeout=60)
        found.append((letter, allowed_ids(compiler.matcher(Constraint("choice", (letter,)), ENDS))))

    threads = [threading.Thread(target=ask, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(found) == [(letter, ids(letter)) for letter in "abcdefgh"]


def test_a_token_that_does_not_fit_is_an_error():
    m = matcher("choice", ("ab",))
    with pytest.raises(InvalidInputError) as failure:
        m.accept(*ids("b"))
    assert str(failure.value).startswith('The constrained answer broke off: Parser Error: token "b" doesn\'t satisfy')
    assert "\n" not in str(failure.value)


def test_a_form_that_leads_nowhere_is_an_error_where_it_ends():
    m = matcher("lark", 'start: "a" <|user|>')
    with pytest.raises(InvalidInputError) as failure:
        m.accept(*ids("a"))
    assert str(failure.value) == "The constrained answer broke off: no token may come next."


def test_a_form_that_becomes_too_complex_on_the_way_is_an_error_there():
    m = matcher("regex", "[xy](a{999}){999}")
    with pytest.raises(InvalidInputError) as failure:
        spelt(m, "xaaa")
    assert str(failure.value) == ("The constrained answer broke off: lexer error: too many expressions constructed.")


def nested_arrays(depth):
    return '{"items":' * depth + "{}" + "}" * depth


HONOURED = "cannot be honoured:"


@pytest.mark.parametrize(
    ("kind", "value", "error", "complaint"),
    [
        ("json_schema", "{nope", InvalidInputError, "The JSON schema is no JSON text: Expecting property name"),
        ("json_schema", "[1]", InvalidInputError, "The JSON schema must be an object or a boolean, got list."),
        ("json_schema", "null", InvalidInputError, "The JSON schema must be an object or a boolean, got NoneType."),
        ("json_schema", "false", InvalidInputError, f"The JSON schema {HONOURED} false allows no answer."),
        ("json_schema", '{"type": "strin"}', UnsupportedFeatureError, f"{HONOURED} Invalid type: strin."),
        ("json_schema", '{"uniqueItems": true}', UnsupportedFeatureError, 'Unimplemented keys: ["uniqueItems"].'),
        (
            "json_schema",
            '{"x-guidance": {"lenient": true}, "uniqueItems": true}',
            UnsupportedFeatureError,
            'Unimplemented keys: ["uniqueItems"].',
        ),
        ("json_schema", '{"$ref": "file:///etc/hostname"}', UnsupportedFeatureError, "does not fetch resources."),
        ("json_schema", '{"enum": []}', UnsupportedFeatureError, "Unsatisfiable schema: anyOf is empty."),
        ("json_schema", '{"const": NaN}', UnsupportedFeatureError, f"The JSON schema {HONOURED} expected value"),
        ("json_schema", '{"const": "\\ud800"}', UnsupportedFeatureError, "unexpected end of hex escape"),
        ("json_schema", '{"const": "\ud800"}', UnsupportedFeatureError, "surrogates not allowed."),
        ("json_schema", nested_arrays(200), UnsupportedFeatureError, "recursion limit exceeded"),
        ("json_schema", nested_arrays(20_000), InvalidInputError, "The JSON schema is nested too deeply."),
        (
            "json_schema",
            json.dumps({"properties": {f"p{i}": {"type": "string"} for i in range(5000)}}),
            UnsupportedFeatureError,
            f"The JSON schema {HONOURED} grammar size (number of symbols) too big (limit for this grammar: 30000).",
        ),
        ("regex", "a(", UnsupportedFeatureError, f"The regex {HONOURED} unclosed group."),
        ("regex", "(?=a)b", UnsupportedFeatureError, "look-around, including look-ahead and look-behind, is not"),
        ("regex", r"(a)\1", UnsupportedFeatureError, f"The regex {HONOURED} backreferences are not supported."),
        ("regex", r"[^\s\S]", InvalidInputError, f"The regex {HONOURED} no token may come next."),
        ("regex", "()", InvalidInputError, f"The regex {HONOURED} only an empty answer has this form."),
        ("regex", "\ud800", UnsupportedFeatureError, "surrogates not allowed."),
        ("regex", "a" * 300_000, InvalidInputError, "The regex may have at most 262144 characters, got 300000."),
        ("choice", ("a\ud800",), UnsupportedFeatureError, f"The choice {HONOURED} 'utf-8' codec can't encode"),
        ("choice", ("a", "b" * 300_000), InvalidInputError, "The choice may have at most 262144 characters, got 3"),
        ("lark", "start: foo", UnsupportedFeatureError, f'The Lark grammar {HONOURED} at 1(8): unknown name: "foo".'),
        ("lark", 'rule: "a"', UnsupportedFeatureError, f"The Lark grammar {HONOURED} no start rule found."),
        ("lark", "start: " + "(" * 500, UnsupportedFeatureError, "lark grammar too deeply nested"),
        ("lark", "start: start", InvalidInputError, f"The Lark grammar {HONOURED} no token may come next."),
        ("lark", "start: <|user|>", InvalidInputError, f"The Lark grammar {HONOURED} no token may come next."),
        ("lark", '{"type": "object"}', InvalidInputError, "The Lark grammar must be Lark rules such as "),
    ],
)
def test_a_form_that_cannot_be_honoured_is_refused_in_one_short_line(kind, value, error, complaint):
    with pytest.raises(error) as refusal:
        COMPILER.matcher(Constraint(kind, value), ENDS)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_a_tokenizer_that_does_not_spell_bytes_is_refused():
    words = Tokenizer(WordLevel({"<unk>": 0, "yes": 1, "no": 2}, unk_token="<unk>"))
    compiler = ConstraintCompiler(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"), 3)
    with pytest.raises(UnsupportedFeatureError) as refusal:
        compiler.matcher(Constraint("choice", ("yes", "no")), frozenset())
    assert str(refusal.value).startswith("Constrained output is not supported with this tokenizer: can't determine")


@pytest.mark.parametrize("value", ["true", "{}"])
def test_a_schema_that_asks_for_nothing_gets_any_json(value):
    m = COMPILER.matcher(Constraint("json_schema", value), ENDS)
    assert spelt(m, '{"a":[1,null]}')


def test_ten_thousand_choices_are_no_burden():
    choices = tuple(f"product {i}" for i in range(10_000))
    assert spelt(matcher("choice", choices), "product 7321")


WITHOUT_LLGUIDANCE = """
import sys
sys.modules["llguidance"] = None
from mlflow_llm_plugins.errors import MissingDependencyError
from mlflow_llm_plugins.generation import Constraint
from mlflow_llm_plugins.generation.sampling.constraints import ConstraintCompiler
from tests.models import byte_tokenizer
try:
    ConstraintCompiler(byte_tokenizer(), 320).matcher(Constraint("choice", ("a",)), frozenset())
except MissingDependencyError as error:
    print(error)
"""


def test_without_llguidance_the_package_to_install_is_named():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LLGUIDANCE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "constrained output needs llguidance: pip install 'mlflow-llm-plugins[torch]'"
