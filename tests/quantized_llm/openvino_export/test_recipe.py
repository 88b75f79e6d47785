"""What a recipe takes, fills in and refuses."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe

TEXTS = ["A text.", "Another one."]


def parse(**settings) -> OpenVINORecipe:
    return OpenVINORecipe.parse(settings, "quantization")


@pytest.mark.parametrize(
    ("weight_format", "expected"),
    [
        ("none", {}),
        ("fp16", {}),
        ("int8", {"symmetric": False}),
        ("int4", {"symmetric": True, "group_size": 128, "ratio": 1.0}),
    ],
)
def test_a_format_has_its_own_defaults_and_no_others(weight_format, expected):
    found = parse(weight_format=weight_format).model_dump(exclude_none=True, exclude_defaults=True)
    assert found == {"weight_format": weight_format, **expected}


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_format": "none"},
        {"weight_format": "int8", "symmetric": True},
        {"weight_format": "int4", "group_size": -1, "ratio": 0.5, "awq": True, "calibration": TEXTS},
    ],
)
def test_a_recorded_recipe_reads_back_the_same(settings):
    recipe = parse(**settings)
    assert parse(**recipe.model_dump()) == recipe
    assert parse(**recipe.model_dump(mode="json", exclude_none=True)) == recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"weight_format": "int8", "group_size": 64},
            "group_size=64 does not belong to weight_format='int8': only sym",
        ),
        ({"weight_format": "none", "symmetric": True}, "symmetric=True does not belong .*: no further settings"),
        ({"weight_format": "fp16", "symmetric": False}, "symmetric=False does not belong"),
        ({"weight_format": "int8", "awq": True}, "awq=True does not belong"),
        ({"weight_format": "int8", "calibration": TEXTS}, "calibration=.* does not belong"),
        ({"weight_format": "int4", "group_size": 0}, "group_size must be -1 .* got 0"),
        ({"weight_format": "int4", "group_size": -2}, "group_size=-2"),
        ({"weight_format": "int4", "ratio": 0}, "ratio=0"),
        ({"weight_format": "int4", "ratio": 1.5}, "ratio=1.5"),
        ({"weight_format": "int4", "awq": True}, "need calibration"),
        ({"weight_format": "int4", "scale_estimation": True}, "need calibration"),
        ({"weight_format": "int4", "calibration": TEXTS}, "set one, or leave it out"),
        ({"weight_format": "int4", "awq": True, "calibration": []}, "calibration="),
        (
            {"weight_format": "int4", "awq": True, "calibration": "One text."},
            "calibration='One text.': it must be a list of texts, and this is one text",
        ),
        ({"weight_format": "int4", "awq": True, "calibration": ["A text.", ""]}, "a text must not be empty"),
        ({"weight_format": "int4", "awq": True, "calibration": [" \n"]}, "a text must not be empty"),
        ({"weight_format": "int3"}, "weight_format='int3'.*'int8' or 'int4'"),
        ({"weight_format": "int8", "bits": 8}, "unknown key 'bits'"),
        ({}, "weight_format"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(settings, message):
    with pytest.raises(InvalidInputError, match=message):
        parse(**settings)
