"""What counts as code in an answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.metrics.readability.code_blocks import without_code


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Before.\n```python\nx = 1\n```\nAfter.", "Before. After."),
        ("Before.\n~~~\nx = 1\n~~~\nAfter.", "Before. After."),
        ("Before.\r\n```\r\nx = 1\r\n```\r\nAfter.", "Before. After."),
        ("Before.\n```python\nx = 1\nAfter.", "Before."),
        ('Before.\n~~~ python title="a"\nx = 1', "Before."),
        ("````\n```\nx\n```\n````\nAfter.", "After."),
        ("~~~~\nx\n~~~\ny\n~~~~~~\nAfter.", "After."),
        ("```\nx\n~~~\ny\n```\nAfter.", "After."),
        ("1. Step\n   ```sh\n   ls\n   ```\n2. Next", "1. Step 2. Next"),
        ("> Quoted\n> ```\n> x\n> ```\nAfter.", "> Quoted After."),
        ("Do this:\n\n1. ```python\n   x = 1\n   ```\n2. Then run it.", "Do this: 2. Then run it."),
        ("- ```python\n  x = 1\n  ```\n\nAfter.", "After."),
        ("> - ```python\n>   x = 1\n>   ```\n> After.", "> After."),
        ("* ```\n  x\n  ```\n* ```\n  y\n  ```\n\nAfter.", "After."),
        ("10)  ~~~\nx\n~~~\nAfter.", "After."),
        ("-```\nx\n", "-``` x"),
        ("```\na\n```\nMiddle.\n```\nb\n```", "Middle."),
        ("Use `x` and ``a ` b`` here.", "Use and here."),
        ("A span `over\ntwo lines` ends.", "A span ends."),
        ("Not `closed.\n\nAnother ` paragraph.", "Not `closed. Another ` paragraph."),
        ("Lengths `` differ ` here.", "Lengths `` differ ` here."),
        ("In a line ```x = 1``` it is a span.", "In a line it is a span."),
        ("Two ~~ or ~~~ in a line stay.", "Two ~~ or ~~~ in a line stay."),
        ("    indented = True", "indented = True"),
        ("No code at all.", "No code at all."),
        ("", ""),
    ],
)
def test_code_is_left_out(text, left):
    assert " ".join(without_code(text).split()) == left


@given(st.text(alphabet="ab \n\r>.~é"))
def test_a_text_without_fences_is_kept_as_it_is(text):
    if not re.search("~{3}", text):
        assert without_code(text) == text


@given(st.text(alphabet="`~a \n>", max_size=60), st.text(alphabet="xyz", min_size=1))
def test_closed_code_never_stays_and_nothing_is_added(text, code):
    left = without_code(f"````````````\n{code}\n````````````\n\n{text}")
    assert not set(left) - set(text) - set(" \n")


@given(st.text(alphabet="` ab", max_size=50))
def test_spans_are_those_of_the_definition(text):
    """Against one regular expression, which is slow on long texts."""
    span = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
    if not re.search("```", text):
        assert without_code(text) == span.sub(" ", text)
