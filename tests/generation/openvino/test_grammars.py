"""A form as a grammar says what the form says: held against Python's `re`, plain arithmetic and `jsonschema`."""

from __future__ import annotations

import json
import random
import re
import time
import warnings
from fractions import Fraction

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.generation import Constraint
from mlflow_llm_plugins.generation.openvino.prover.forms import as_library_form
from mlflow_llm_plugins.generation.openvino.prover.grammar import Grammar, Regex, SchemaReader, finite
from mlflow_llm_plugins.generation.openvino.prover.grammar.characters import ALL, Characters
from mlflow_llm_plugins.generation.openvino.prover.grammar.numbers import integers, numbers
from tests.generation.openvino.grammar_pipeline import GrammarPipeline, as_python
from tests.models import EOS_ID, VOCAB_SIZE, byte_tokenizer


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return GrammarPipeline(byte_tokenizer(), tmp_path_factory.mktemp("grammars"), VOCAB_SIZE)


def plain(expression, grammar=None):
    rules = finite(grammar or Grammar(), expression)
    return as_python(rules) if rules else re.compile(r"(?!)")


class TestCharacters:
    @given(st.lists(st.characters(exclude_categories=["Cs"])), st.lists(st.characters(exclude_categories=["Cs"])))
    def test_sets_are_those_of_python(self, one, other):
        first, second = Characters.of("".join(one)), Characters.of("".join(other))
        for character in {*one, *other, "a", "\n", "é"} - {"\0"}:
            here = Characters.of(character)
            assert bool(here & (first | second)) == (character in one or character in other)
            assert bool(here & first & second) == (character in one and character in other)
            assert bool(here & ~first) == (character not in one)

    def test_no_set_has_a_nul_or_half_a_surrogate_pair(self):
        assert not Characters.of("\0")
        assert not Characters.span(0xD800, 0xDFFF)
        assert ~Characters.of("") == ALL


def ebnf(schema):
    return as_library_form(Constraint("json_schema", json.dumps(schema)))[1]


BOUNDS = st.one_of(st.none(), st.integers(-1100, 1100), st.integers(-(10**18), 10**18))


class TestNumbers:
    @given(low=BOUNDS, high=BOUNDS, value=st.one_of(st.integers(-1200, 1200), st.integers(-(10**18), 10**18)))
    def test_integers_between_bounds_are_written_and_no_others(self, low, high, value):
        assume(low is None or high is None or low <= high)
        pattern = plain(integers(*(None if bound is None else Fraction(bound) for bound in (low, high))))
        inside = (low is None or low <= value) and (high is None or value <= high) and abs(value) < 10**18
        assert bool(pattern.fullmatch(str(value))) == inside
        assert not pattern.fullmatch(f"0{value}")
        assert not pattern.fullmatch("-0")

    @given(
        low=st.one_of(st.none(), st.decimals(-1000, 1000, places=2)),
        high=st.one_of(st.none(), st.decimals(-1000, 1000, places=3)),
        value=st.decimals(-1001, 1001, places=3),
        without_low=st.booleans(),
        without_high=st.booleans(),
    )
    def test_numbers_between_bounds_are_written_and_no_others(self, low, high, value, without_low, without_high):
        assume(low is not None or high is not None)
        assume(low is None or high is None or low < high)
        bounds = [None if bound is None else Fraction(bound) for bound in (low, high)]
        pattern = plain(numbers(*bounds, without_low=without_low, without_high=without_high))
        above = low is None or value > low or (value == low and not without_low)
        below = high is None or value < high or (value == high and not without_high)
        assume(value != 0 or not str(value).startswith("-"))
        assert bool(pattern.fullmatch(str(value))) == (above and below)

    @given(
        low=st.decimals(-120, 120, places=1),
        width=st.decimals(0, 30, places=1),
        digits=st.integers(0, 6),
        where=st.fractions(0, 1),
    )
    def test_a_number_near_its_bounds_has_any_fraction(self, low, width, digits, where):
        bounds = Fraction(low), Fraction(low + width)
        value = round((bounds[0] + where * (bounds[1] - bounds[0])) * 10**digits)
        assume(bounds[0] <= Fraction(value, 10**digits) <= bounds[1])
        text = f"{abs(value):0{digits + 1}d}"
        text = "-" * (value < 0) + (f"{text[:-digits]}.{text[-digits:]}" if digits else text)
        assert plain(numbers(*bounds)).fullmatch(text)

    @pytest.mark.parametrize("bounds", [(0, None), (1, None), (None, 0), (0.1, None), (-1000, 1000), (None, 0.001)])
    def test_bounds_make_a_short_grammar(self, bounds):
        low, high = bounds
        limits = {"minimum": low} if high is None else {"maximum": high} if low is None else {}
        schema = {"type": "number", **(limits or {"minimum": low, "maximum": high})}
        one = len(ebnf(schema))
        assert one < 4000
        many = {"type": "object", "properties": {f"f{i:02}": schema for i in range(20)}}
        assert len(ebnf(many)) < one + 20 * 300

    def test_too_many_different_bounds_are_refused_in_no_time(self):
        schema = {"properties": {f"f{i}": {"maximum": i + 0.1234} for i in range(3000)}}
        begun = time.process_time()
        with pytest.raises(UnsupportedFeatureError) as refusal:
            ebnf(schema)
        assert "#/properties/f64: more than 64 different bounds of numbers in one schema are not" in str(refusal.value)
        assert time.process_time() - begun < 5

    @pytest.mark.parametrize(
        ("schema", "complaint"),
        [
            (
                {"type": "integer", "minimum": 10**18},
                "integers of more than 18 digits are not supported by the engine",
            ),
            ({"type": "integer", "maximum": -(10**30)}, "integers of more than 18 digits are not supported"),
            ({"type": "number", "exclusiveMinimum": 1e15}, "numbers of more than 15 digits before the point are not"),
            ({"type": "number", "maximum": -1e300}, "numbers of more than 15 digits before the point are not"),
        ],
    )
    def test_bounds_that_only_too_long_numbers_keep_are_refused_as_such(self, schema, complaint):
        with pytest.raises(UnsupportedFeatureError) as refusal:
            as_library_form(Constraint("json_schema", json.dumps({"items": schema})))
        assert f"{HONOURED} #/items: {complaint}" in str(refusal.value)

    @pytest.mark.parametrize("value", ["0", "-1", "12.5", "1e5", "-1.25E-10", "0.000001"])
    def test_a_number_without_bounds_may_be_written_in_every_way(self, value):
        assert plain(numbers(None, None)).fullmatch(value)

    @pytest.mark.parametrize("value", ["01", "1.", ".5", "+1", "1e", "--1", "1e999", "NaN", "1" * 16])
    def test_what_is_no_json_number_or_no_float_is_not_written(self, value):
        assert not plain(numbers(None, None)).fullmatch(value)


REGEXES = [
    r"(yes|no)",
    r"a{1,5}b?",
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "[\"'/\\\\]{2,9}\n?é",
    r"^[a-c]*[x-z]$",
    r"[一-三]{1,3}",
    r"\A(?:ab|a+?c)\Z",
    r"[^a-z0-9]{2}",
    r"[^é-ü]x",
    r"\d{2}\s\w",
    r"(?a:\w)[\D\n]",
    r"a.c",
    r"(?s)a.c",
    r"(?x) a b  # a comment",
    r"((a|b)*c)*d",
    r"(a?b?)*x",
    r"(|a)b",
    r"[]\-^\\[]{1,2}",
    r"\x41\u00e9\n\t",
    r"^a|b$",
    r"a{,2}b{2}",
    r"(?P<name>a)(?:b)",
    r"🙂+",
    r"(größe|über)ab",
    r"[^,]{2,12},([a-z ]{9}|[a-z ]{3})?",
    r"[\x01-\x1f0-9]{4}",
    r"[\x01\x03\x10a]{4}",
    r"[\x1fa-f]{2}[\x7fa]{2}[é1]{2}[\x800]{2}",
    r"(\x010|\x02){3}b",
    r"(\xe9f){2}a",
    r"[\^-z][\^a][\^\x01]([\^-é]|0)",
]


@pytest.mark.parametrize("regex", REGEXES)
def test_a_regex_as_a_grammar_takes_what_fullmatch_takes(regex):
    grammar = Grammar()
    expression = Regex.parse(regex).expression(grammar)
    translated = plain(expression, grammar)
    generator = random.Random(regex)
    letters = sorted({*regex, *"abcxyz019 -\n\tAé一🙂٣_ß\\\"'/[]^"})
    for _ in range(3000):
        text = "".join(generator.choices(letters, k=generator.randrange(1, 6)))
        assert bool(translated.fullmatch(text)) == bool(re.fullmatch(regex, text)), text


@pytest.mark.parametrize("regex", REGEXES)
def test_an_answer_under_a_regex_matches_from_its_first_character_to_its_last(pipeline, regex):
    texts = pipeline.answers(Constraint("regex", regex), EOS_ID)
    assert len(texts) > 12
    assert [text for text in texts if not re.fullmatch(regex, text)] == []


CHOICES = [
    ("yes", "no"),
    ("a", "ab", "abc"),
    ('say "hi"', "it's \\ \\n", "two\nlines\t", "/* .*? */"),
    ("ja", "jå", "你好", "👍", "👍🏽"),
    ("<|eos|>", "<|user|>hi", "^a$", ".*", "[x]{2}", "\x01", " "),
    ("größe", "über", "écrit", "ça va", "«abc»", "5€ab"),
    ("\xe9\x41", "\xa0abc", "\x01a", "\x1f9\x01f", "\x7fa", "\x80\xff0"),
]


@pytest.mark.parametrize("choices", CHOICES)
def test_an_answer_under_choices_is_one_of_them_and_each_comes(pipeline, choices):
    assert set(pipeline.answers(Constraint("choice", choices), EOS_ID, range(60))) == set(choices)


HARD_TO_WRITE = 'aAbfF019 -éßüñ«»\x01\x0b\x1f\x7f\x80\xff\n\t"\\日👍Ā_[]^'


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.text(HARD_TO_WRITE, min_size=1, max_size=6), min_size=1, max_size=4))
def test_choices_of_any_characters_come_as_they_are(pipeline, choices):
    answers = pipeline.answers(Constraint("choice", tuple(sorted(choices))), EOS_ID, range(40))
    assert set(answers) <= choices
    assert len(answers) == 40


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(HARD_TO_WRITE, min_size=1, max_size=6),
    st.text(HARD_TO_WRITE, min_size=1, max_size=4),
    st.text(HARD_TO_WRITE, min_size=1, max_size=4),
)
def test_a_regex_of_any_characters_is_followed(pipeline, several, one, other):
    regex = f"[{re.escape(several)}]{{1,3}}({re.escape(one)}|{re.escape(other)}){{1,2}}"
    answers = pipeline.answers(Constraint("regex", regex), EOS_ID, range(8))
    assert [text for text in answers if not re.fullmatch(regex, text)] == []
    assert len(answers) == 8


def test_special_tokens_are_never_in_an_answer(pipeline):
    ids = pipeline.token_ids(Constraint("choice", ("<|eos|><|user|>", "<|pad|>")), EOS_ID, range(20))
    specials = set(byte_tokenizer().all_special_ids)
    assert [answer for answer in ids if specials & set(answer[:-1])] == []


SCHEMAS = {
    "judge": {
        "type": "object",
        "properties": {
            "verdict": {"enum": ["yes", "no", 'un"clear']},
            "reason": {"type": "string", "maxLength": 10},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
        },
        "required": ["verdict", "reason", "score"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "null"}, "b": {"const": 1}, "c": {"type": "boolean"}, "d": {"enum": ["x"]}},
        "required": ["c"],
    },
    "open": {
        "type": "object",
        "properties": {"ab": {"const": 1}, "a": {"const": 2}, '"': {"const": 3}, "": {"const": 4}},
        "additionalProperties": {"type": "string", "maxLength": 1},
    },
    "missing": {"type": "object", "required": ["q", "r"], "additionalProperties": {"type": "boolean"}},
    "missing beside others": {"properties": {"a": {"const": 1}}, "required": ["b"]},
    "closed": {"type": "object", "properties": {"a": True, "b": False}, "additionalProperties": False},
    "nested": {
        "type": "array",
        "maxItems": 2,
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {"x": {"type": "array", "items": {"const": None}, "maxItems": 3}},
            "required": ["x"],
        },
    },
    "enum": {"enum": ["a", "ab", 1, 10, 2.5, None, {"k": ["ü\n"]}, True]},
    "enum of a type": {"enum": ["a", 1, None, 1.0, True], "type": ["integer", "null"]},
    "const": {"const": {"a": [1, "x\u2028"]}, "title": "a title"},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"type": "null"}],
        "items": {"const": 1},
        "minItems": 1,
        "maxItems": 4,
    },
    "closed tuple": {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False},
    "union": {"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 2}]},
    "disjoint": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"const": 1}}, "required": ["kind"]},
            {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}}, "required": ["kind"]},
            {"type": "null"},
        ],
        "discriminator": {"propertyName": "kind"},
    },
    "all of one": {"allOf": [{"$ref": "#/$defs/a~1b"}], "$defs": {"a/b": {"type": "boolean"}}},
    "recursive": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["next"],
            }
        },
    },
    "types": {"type": ["integer", "null", "boolean"]},
    "inferred": {"minimum": 3, "maximum": 7, "description": "a number"},
    "integer": {"type": "integer", "exclusiveMinimum": -12, "maximum": 105},
    "integer of halves": {"type": "integer", "minimum": 0.5, "exclusiveMaximum": 3.0},
    "multiple": {"type": "integer", "minimum": -10, "maximum": 100, "multipleOf": 7},
    "number": {"type": "number", "minimum": -0.25, "exclusiveMaximum": 10.5},
    "number below": {"maximum": 1},
    "number beside zero": {"minimum": -1000, "maximum": 1000},
    "integer from below": {"type": "integer", "minimum": -100000},
    "any number": {"type": "number"},
    "length": {"type": "string", "minLength": 2, "maxLength": 4},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$", "minLength": 4, "maxLength": 6},
    "pattern inside": {"type": "string", "pattern": 'x["\\\\]{2}$'},
    "pattern of classes": {"type": "string", "pattern": r"^\d\w\s\D\W[^\d\n][^\s]$"},
    "dot": {"type": "string", "pattern": "^.$"},
    "either pattern": {"type": "string", "pattern": "^a{2}$|^b{2}$"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date-time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "characters beside digits": {
        "type": "object",
        "properties": {
            "größe": {"enum": ["über", "écrit", "\xa0abc"]},
            "\xe9\x41": {"const": {"ça va": "«abc»"}},
            "\x7fa": {"type": "string", "pattern": "^[\x01-\x1f0-9ée]{2}\x7fa$"},
        },
        "required": ["größe", "\xe9\x41", "\x7fa"],
        "additionalProperties": {"const": "\x80f"},
    },
    "twenty numbers": {
        "type": "object",
        "properties": {f"f{i}": {"type": "number", "minimum": 0} for i in range(20)},
        "required": [f"f{i}" for i in range(20)],
    },
    "number above": {"type": "number", "exclusiveMinimum": 0},
    "number above a fraction": {"type": "number", "minimum": -12.75},
    "without effect": {"type": "array", "items": {"const": 1}, "maxItems": 2, "uniqueItems": False, "maxLength": 3},
}


@pytest.mark.parametrize("name", sorted({*SCHEMAS} - {"pattern inside"}))  # random picks do not find its end
def test_an_answer_under_a_json_schema_is_valid_and_has_no_white_space(pipeline, name):
    schema = SCHEMAS[name]
    texts = pipeline.answers(Constraint("json_schema", json.dumps(schema)), EOS_ID)
    assert len(texts) > 3
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    for text in texts:
        validator.validate(json.loads(text))
        if not re.search(r"[\\eE.]|-0", text):
            assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)


def valid_texts(schema):
    grammar = Grammar()
    return plain(SchemaReader(schema, grammar).read(), grammar)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("optional", '{"c":true}'),
        ("optional", '{"a":null,"b":1,"c":false,"d":"x"}'),
        ("open", "{}"),
        ("open", '{"ab":1,"a":2,"\\"":3,"":4,"abc":"x","b":"","aa":"ü"}'),
        ("missing", '{"q":true,"r":false,"x":true}'),
        ("dot", '"é"'),
        ("tuple", "[true]"),
        ("tuple", "[false,null,1,1]"),
        ("closed tuple", "[]"),
        ("closed tuple", "[1,2]"),
        ("length", '"\\n\\"ü"'),
        ("pattern inside", '"abx\\\\\\""'),
        ("either pattern", '"bb"'),
        ("multiple", "98"),
        ("multiple", "-7"),
        ("number", "-0.25"),
        ("number", "10.4999"),
        ("date-time", '"2024-02-28T23:59:59.5+01:00"'),
    ],
)
def test_an_answer_may_be_anything_that_the_schema_is_meant_for(name, text):
    jsonschema.validate(json.loads(text), SCHEMAS[name])
    assert valid_texts(SCHEMAS[name]).fullmatch(text)


class TestOneOf:
    def test_2000_constants_are_compared_in_no_time(self):
        schema = {"oneOf": [{"const": f"label {i}", "title": "a title"} for i in range(2000)]}
        begun = time.process_time()
        assert '"' in ebnf(schema)
        assert time.process_time() - begun < 1

    @pytest.mark.parametrize("last", [{"const": "label 3"}, {"enum": ["x", "label 5"]}, {"type": "string"}, {}, True])
    def test_constants_of_which_one_comes_twice_are_refused(self, last):
        schemas = [{"const": f"label {i}"} for i in range(2000)]
        with pytest.raises(UnsupportedFeatureError, match=r"#/oneOf: with schemas that do not differ"):
            ebnf({"oneOf": [*schemas, last]})

    def test_constants_may_stand_beside_other_types(self):
        labels = [{"const": f"label {i}"} for i in range(100)]
        assert ebnf({"oneOf": [*labels, {"type": "integer"}, {"enum": [None, {"a": 1}]}]})

    def test_many_schemas_that_are_no_constants_are_refused_by_name(self):
        def schemas(number):
            kinds = [{"properties": {"kind": {"const": i}}, "required": ["kind"]} for i in range(number)]
            return {"oneOf": [{"type": "object", **kind} for kind in kinds]}

        assert ebnf(schemas(64))
        with pytest.raises(UnsupportedFeatureError, match=r"#/oneOf: with more than 64 schemas that are no const or "):
            ebnf(schemas(65))

    def test_the_same_large_schemas_are_compared_once(self):
        names = [f"p{i}" for i in range(1000)]
        definitions = {
            kind: {
                "type": "object",
                "required": names,
                "properties": {**{name: {} for name in names}, "p999": {"const": i}},
            }
            for i, kind in enumerate("ab")
        }
        pair = {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
        begun = time.process_time()
        assert ebnf({"properties": {str(i): pair for i in range(500)}, "$defs": definitions})
        assert time.process_time() - begun < 3

    def test_a_constant_is_compared_with_many_values_in_no_time(self):
        large = {"a": ["x" * 100] * 200}
        begun = time.process_time()
        assert ebnf({"const": large, "enum": [*range(20_000), large]})
        assert time.process_time() - begun < 2


HONOURED = "The JSON schema cannot be honoured:"
NOT_HERE = "not supported by the engine 'openvino'"


@pytest.mark.parametrize(
    "keyword",
    [
        {"not": {}},
        {"if": {}, "then": {}},
        {"patternProperties": {"a": {}}},
        {"propertyNames": {"maxLength": 3}},
        {"minProperties": 1},
        {"maxProperties": 1},
        {"dependentRequired": {"a": ["b"]}},
        {"dependentSchemas": {"a": {}}},
        {"unevaluatedProperties": False},
        {"uniqueItems": True},
        {"contains": {}},
        {"additionalItems": False},
        {"$dynamicRef": "#a"},
    ],
    ids=lambda keyword: next(iter(keyword)),
)
def test_a_keyword_that_cannot_be_kept_is_refused_by_name_wherever_it_is(keyword):
    name = next(iter(keyword))
    for schema, place in [
        (keyword, "#"),
        ({"type": "object", "properties": {"p": keyword}}, "#/properties/p"),
        ({"anyOf": [{"type": "array", "items": keyword}]}, "#/anyOf/0/items"),
        ({"type": "array", "items": {"$ref": "#/$defs/d"}, "$defs": {"d": keyword}}, "#/$defs/d"),
    ]:
        with pytest.raises(UnsupportedFeatureError) as refusal:
            as_library_form(Constraint("json_schema", json.dumps(schema)))
        assert str(refusal.value) == f"{HONOURED} {place}/{name}: this keyword is {NOT_HERE}."


@pytest.mark.parametrize(("text", "fits"), [("a", True), ("\\n", False), ("\\r", False), ("\u2028", False)])
def test_a_dot_in_a_schema_is_no_line_end_of_any_dialect(text, fits):
    assert bool(valid_texts(SCHEMAS["dot"]).fullmatch(f'"{text}"')) == fits


def deep(depth):
    return '{"items":' * depth + "{}" + "}" * depth


@pytest.mark.parametrize(
    ("kind", "value", "error", "complaint"),
    [
        ("json_schema", "{nope", InvalidInputError, "The JSON schema is no JSON text: Expecting property name"),
        ("json_schema", "[1]", InvalidInputError, "The JSON schema must be an object or a boolean, got list."),
        ("json_schema", "false", InvalidInputError, f"{HONOURED} false allows no answer."),
        ("json_schema", '{"type":"strin"}', InvalidInputError, "#/type: it must be one or a list of null, boolean,"),
        ("json_schema", '{"type":[]}', InvalidInputError, "#/type: it must be one or a list of null, boolean,"),
        ("json_schema", '{"enum":[]}', InvalidInputError, f"{HONOURED} no text has this form."),
        (
            "json_schema",
            '{"$ref":["#"]}',
            UnsupportedFeatureError,
            "#/$ref: a reference such as ['#'], to another place",
        ),
        (
            "json_schema",
            '{"oneOf":[{"type":[[1]]},{}]}',
            InvalidInputError,
            "#/oneOf/0/type: it must be one or a list",
        ),
        (
            "json_schema",
            '{"oneOf":[{"required":5},{}]}',
            InvalidInputError,
            "#/oneOf/0/required: it must be a list of",
        ),
        ("json_schema", '{"enum":5}', InvalidInputError, "#/enum: it must be a list of values, got 5."),
        ("json_schema", '{"items":[{}]}', InvalidInputError, "#/items: a schema must be an object or a boolean, got"),
        ("json_schema", '{"properties":[1]}', InvalidInputError, "#/properties: it must be an object of schemas, got"),
        ("json_schema", '{"required":"a"}', InvalidInputError, "#/required: it must be a list of names, got 'a'."),
        ("json_schema", '{"maxLength":-1}', InvalidInputError, "#/maxLength: it must be a whole number, at least 0"),
        ("json_schema", '{"minimum":"1"}', InvalidInputError, "#/minimum: it must be a number, got '1'."),
        ("json_schema", '{"minimum":true}', InvalidInputError, "#/minimum: it must be a number, got True."),
        ("json_schema", '{"minimum":1e999}', InvalidInputError, "#/minimum: it must be a number, got inf."),
        ("json_schema", '{"anyOf":[]}', InvalidInputError, "#/anyOf: it must be a list of schemas, at least one"),
        ("json_schema", '{"const":NaN}', InvalidInputError, "it must be a value that JSON has, got nan."),
        ("json_schema", '{"minimum":3,"maximum":2}', InvalidInputError, f"{HONOURED} no text has this form."),
        ("json_schema", '{"minLength":3,"maxLength":2}', InvalidInputError, f"{HONOURED} no text has this form."),
        ("json_schema", '{"minItems":3,"maxItems":2}', InvalidInputError, f"{HONOURED} no text has this form."),
        ("json_schema", '{"$ref":"#"}', InvalidInputError, f"{HONOURED} no text has this form."),
        ("json_schema", '{"anyOf":[{"$ref":"#"},{"const":1}]}', InvalidInputError, "it refers to itself without end."),
        (
            "json_schema",
            '{"type":"object","properties":{"n":{"$ref":"#"}},"required":["n"]}',
            InvalidInputError,
            f"{HONOURED} no text has this form.",
        ),
        ("json_schema", '{"$ref":"#/$defs/x"}', InvalidInputError, "#/$ref: it must name a part of the schema, got"),
        (
            "json_schema",
            '{"$ref":"file:///etc/hostname"}',
            UnsupportedFeatureError,
            "#/$ref: a reference such as 'file:",
        ),
        (
            "json_schema",
            '{"$ref":"#/$defs/x","type":"null"}',
            UnsupportedFeatureError,
            "it and type in one schema are",
        ),
        ("json_schema", '{"anyOf":[{}],"minimum":1}', UnsupportedFeatureError, "it and minimum in one schema are"),
        ("json_schema", '{"enum":[1],"minimum":1}', UnsupportedFeatureError, "it and minimum in one schema are"),
        ("json_schema", '{"allOf":[{},{}]}', UnsupportedFeatureError, "#/allOf: more than one schema in it is"),
        ("json_schema", '{"oneOf":[{"minimum":1},{}]}', UnsupportedFeatureError, "#/oneOf: with schemas that do not"),
        (
            "json_schema",
            '{"oneOf":[{"type":"integer"},{"type":"number"}]}',
            UnsupportedFeatureError,
            "#/oneOf: with schemas that do not",
        ),
        (
            "json_schema",
            '{"oneOf":[{"const":1},{"const":1.0}]}',
            UnsupportedFeatureError,
            "#/oneOf: with schemas that",
        ),
        (
            "json_schema",
            '{"type":"number","multipleOf":0.1}',
            UnsupportedFeatureError,
            "#/multipleOf: for numbers that",
        ),
        (
            "json_schema",
            '{"type":"integer","multipleOf":3}',
            UnsupportedFeatureError,
            "#/multipleOf: without bounds for",
        ),
        (
            "json_schema",
            '{"format":"hostname"}',
            UnsupportedFeatureError,
            "#/format: 'hostname' (other than date, time,",
        ),
        ("json_schema", '{"pattern":"a","maxLength":3}', UnsupportedFeatureError, "#/pattern: beside a minLength or"),
        (
            "json_schema",
            '{"pattern":"(?=a)"}',
            UnsupportedFeatureError,
            "#/pattern: The regex cannot be honoured: look",
        ),
        (
            "json_schema",
            '{"pattern":"("}',
            UnsupportedFeatureError,
            "#/pattern: The regex cannot be honoured: missing ),",
        ),
        ("json_schema", '{"const":"\ud800"}', UnsupportedFeatureError, "surrogates not allowed."),
        ("json_schema", '{"const":"\\ud800"}', InvalidInputError, "it must be a value that JSON has, got '\\ud800'."),
        ("json_schema", deep(20_000), InvalidInputError, "The JSON schema is nested too deeply."),
        ("json_schema", deep(900), InvalidInputError, "The JSON schema is nested too deeply."),
        (
            "json_schema",
            '{"minLength":5000000000}',
            UnsupportedFeatureError,
            "counting to more than 2147483647 is not",
        ),
        ("json_schema", '{"maxItems":2147483649}', UnsupportedFeatureError, "counting to more than 2147483647 is not"),
        ("regex", "a{3000000000}", UnsupportedFeatureError, "counting to more than 2147483647 is not supported"),
        ("regex", "a{5000000000}", InvalidInputError, "The regex is nested too deeply, or has too large a number."),
        ("regex", "a(", UnsupportedFeatureError, "The regex cannot be honoured: missing ), unterminated subpattern"),
        ("regex", "(?=a)b", UnsupportedFeatureError, f"looking ahead or behind is {NOT_HERE}."),
        ("regex", "(?<!a)b", UnsupportedFeatureError, f"looking ahead or behind is {NOT_HERE}."),
        ("regex", r"(a)\1", UnsupportedFeatureError, f"a reference to a group is {NOT_HERE}."),
        ("regex", "(a)?(?(1)b|c)", UnsupportedFeatureError, f"a condition on a group is {NOT_HERE}."),
        ("regex", r"a\b", UnsupportedFeatureError, r"a boundary (\b or \B) is not supported"),
        ("regex", "[[:alpha:]]+", UnsupportedFeatureError, "possible nested set at position 1 is not supported"),
        ("regex", "[a-z--b]", UnsupportedFeatureError, "possible set difference at position 4 is not supported"),
        ("json_schema", '{"pattern":"[[a]b]"}', UnsupportedFeatureError, "possible nested set at position 1 is not"),
        ("regex", "a^b", UnsupportedFeatureError, f"an anchor in the middle is {NOT_HERE}."),
        ("regex", "(a$)+", UnsupportedFeatureError, f"an anchor in the middle is {NOT_HERE}."),
        ("regex", "(?i)a", UnsupportedFeatureError, f"the flag (?i) is {NOT_HERE}."),
        ("regex", "(?i:a)b", UnsupportedFeatureError, f"the flag (?i) is {NOT_HERE}."),
        ("regex", "(?m)^a$", UnsupportedFeatureError, f"the flag (?m) is {NOT_HERE}."),
        ("regex", r"a\0", UnsupportedFeatureError, r"the character '\x00' is not supported"),
        ("regex", r"[^\s\S]", InvalidInputError, "The regex cannot be honoured: no text has this form."),
        ("regex", "()", InvalidInputError, "The regex cannot be honoured: only an empty answer has this form."),
        ("regex", "(" * 5000 + "a" + ")" * 5000, InvalidInputError, "The regex is nested too deeply"),
        ("regex", "\ud800", UnsupportedFeatureError, "surrogates not allowed."),
        ("regex", "a" * 300_000, InvalidInputError, "The regex may have at most 262144 characters, got 300000."),
        ("choice", ("a\0b",), UnsupportedFeatureError, r"'a\x00b' has a NUL character, which is not supported"),
        ("choice", ("a\ud800",), UnsupportedFeatureError, "The choice cannot be honoured: 'utf-8' codec can't encode"),
        ("lark", 'start: "a"', UnsupportedFeatureError, "takes a JSON schema, a regex or choices."),
    ],
)
def test_a_form_that_cannot_be_honoured_is_refused_in_one_short_line(kind, value, error, complaint):
    with pytest.raises(error) as refusal:
        as_library_form(Constraint(kind, value))
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("regex", ["[[:alpha:]]", "x[[]", "[a&&b]", "[a||b]"])
def test_a_regex_that_python_warns_of_warns_nobody(regex):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(UnsupportedFeatureError, match=r"Write it in another way\.$"):
            as_library_form(Constraint("regex", regex))
    assert told == []


def test_a_part_of_a_schema_that_no_text_has_is_left_out(pipeline):
    schema = {
        "anyOf": [{"$ref": "#/$defs/endless"}, {"type": "null"}],
        "$defs": {"endless": {"type": "array", "items": {"$ref": "#/$defs/endless"}, "minItems": 1}},
    }
    assert set(pipeline.answers(Constraint("json_schema", json.dumps(schema)), EOS_ID)) == {"null"}
