"""Whether answers hold Python by its syntax, and where their fenced blocks are."""

from __future__ import annotations

import ast
import inspect
import json
import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.metrics.form.fences import CodeBlock, code_blocks
from mlflow_llm_plugins.metrics.form.python_code import python_syntax_ok

SOURCES = [inspect.getsource(module) for module in (ast, json, inspect, warnings)]


@pytest.mark.parametrize("source", SOURCES, ids=["ast", "json", "inspect", "warnings"])
def test_real_code_parses_bare_and_fenced_and_its_first_half_line_does_not(source):
    broken = source + "\ndef broken(:\n"
    texts = [source, f"Here it is:\n\n```python\n{source}\n```\nDone.", broken, f"```py\n{broken}\n```"]
    assert python_syntax_ok()(texts).scores == [1.0, 1.0, 0.0, 0.0]


def test_the_kind_of_error_and_its_line_are_told_without_the_code():
    result = python_syntax_ok()(["x = 1\nif x:\nsecret_words()", "secret words of mine", "a\0b"])
    assert result.justifications[:2] == ["IndentationError in line 3", "SyntaxError in line 1"]
    assert result.scores == [0.0, 0.0, 0.0]


def test_every_block_must_parse_and_the_one_that_does_not_is_told():
    good, bad = "```python\nx = 1\n```\n", "```python\n\nx = = 1\n```\n"
    result = python_syntax_ok()([good + "then\n" + good, good + bad])
    assert result.scores == [1.0, 0.0]
    assert result.justifications == [None, "SyntaxError in line 2 of block 2"]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("```bash\nls -l | wc\n```\n```python\nx = 1\n```", 1.0),  # other languages are not Python's concern
        ("```\nx = 1\n```", 1.0),
        ("Prose before it.\n```\nx = 1\n```", 1.0),
        ("```\nls -l | wc -\n```\n```python\nx = 1\n```", 1.0),
        ("```json\n{}\n```", 0.0),  # no Python, so the whole answer counts, fences included
        ("1. First:\n   ```python\n   for x in y:\n       pass\n   ```", 1.0),
        ("```python\nfor x in range(3):\n    print(x)", 1.0),  # cut off
        ("So:\n> ```python\n> if x:\n>     y()\n> ```\n> Done.", 1.0),
        ("1. ```python\n   for x in y:\n       pass\n   ```\n2. Then run it.", 1.0),
        ("- ```python\n  x = = 1\n  ```", 0.0),
        ("> * ```python\n>   if x:\n>       y()\n>   ```\n> Done.", 1.0),
        ("````python\ns = '''\n```\n'''\n````", 1.0),
        ("Just prose, as it is spoken.", 0.0),
        ("```python\n```", 0.0),
        ("", 0.0),
    ],
)
def test_the_code_of_an_answer_is_found(text, score):
    assert python_syntax_ok()([text]).scores == [score]


def test_without_extraction_the_whole_answer_is_parsed():
    assert python_syntax_ok(extract_code=False)(["```python\nx = 1\n```", "x = 1"]).scores == [0.0, 1.0]


def test_an_answer_without_code_says_so():
    assert python_syntax_ok()([" \n"]).justifications == ["no code"]


def test_nothing_is_executed_and_nothing_is_warned_of(tmp_path):
    trace = tmp_path / "trace"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = python_syntax_ok()([f"open({str(trace)!r}, 'w')", r"x = '\d'", "import no_such_module"])
    assert result.scores == [1.0, 1.0, 1.0]
    assert not trace.exists()


@pytest.mark.parametrize("text", ["a" + ".b" * 100_000, "not " * 100_000 + "a"])
def test_code_that_the_parser_gives_up_on_has_no_score(text):
    result = python_syntax_ok()([text, "x = 1"])
    assert math.isnan(result.scores[0])
    assert result.scores[1] == 1.0
    assert result.justifications == ["the code is nested too deeply to be parsed", None]


@pytest.mark.parametrize("text", ["x = '\ud800'", "'\udfff'"])
def test_half_a_character_is_no_source(text):
    assert python_syntax_ok()([text]).justifications == ["a character that no Python source may have"]


@given(
    st.text(st.characters(exclude_characters="`~", exclude_categories=["Cs"])),
    st.sampled_from(
        [("", ""), ("  ", "  "), ("\t", "\t"), ("- ", "  "), (" 12.  ", "      "), ("> 3) + ", ">      ")]
    ),
    st.sampled_from(["```", "````", "~~~"]),
    st.sampled_from(["", "python", "C++"]),
)
def test_what_is_put_between_fences_is_found_there(code, before, fence, language):
    first, others = before
    lines = [f"{first}{fence}{language}", *(others + line for line in [*code.split("\n"), fence])]
    text = "\n".join(["before", *lines, "after"])
    assert code_blocks(text) == [
        CodeBlock(language.lower(), code, 1, len(lines), is_list_item=first.strip(" \t>") != "")
    ]


def test_a_quoted_block_is_found_without_what_quotes_it_and_a_quoted_line_does_not_close_another():
    assert code_blocks("> ```py\n> x\n> ```\ny") == [CodeBlock("py", "x", 0, 2)]
    assert code_blocks("```\n> ```\n```") == [CodeBlock("", "> ```", 0, 2)]


@pytest.mark.parametrize(
    "text", ["no fence", "`` ` ``", "a ``` b", "```not `a` fence", "x\n``\ny\n``", "-```", "a. ```", "1 ```"]
)
def test_what_is_no_fence_opens_no_block(text):
    assert code_blocks(text) == []
