"""Weights in 8 and 4 bits."""

from __future__ import annotations

import math

import pytest

from mlflow_llm_plugins.quantized_llm.openvino_export.existing import describe
from tests.quantized_llm.openvino_export.architectures import build

TEXTS = ["The ship came in with the tide.", "Bread needs flour, water and salt.", "Two trains leave at noon."]
DATA_AWARE = [{"awq": True}, {"scale_estimation": True}, {"awq": True, "scale_estimation": True}]


def size_of(export, **settings) -> int:
    return export(build("llama"), "int4", **settings)[1].weight_bytes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"weight_format": "int8"}, ("int8", -1, False)),
        ({"weight_format": "int8", "symmetric": True}, ("int8", -1, True)),
        ({"weight_format": "int4", "group_size": 32}, ("int4", 32, True)),
        ({"weight_format": "int4", "group_size": -1, "symmetric": False}, ("int4", -1, False)),
    ],
)
def test_the_files_have_the_format_that_was_asked_for(settings, expected, export):
    folder, report = export(build("llama"), **settings)
    found = describe(folder)
    assert (found.weight_format, found.group_size, found.symmetric) == expected
    assert report.probe.uncompressed_difference < 1e-3
    assert report.probe.paged_difference < 1e-3


def test_int8_stays_closer_to_torch_than_int4(export):
    int8, int4 = (export(build("llama"), name)[1].probe for name in ("int8", "int4"))
    assert 0 < int8.mean_difference < int4.mean_difference
    assert int8.top1_agreement > int4.top1_agreement


def test_int8_of_bfloat16_weights_is_int8_of_them(export):
    import torch

    probe = export(build("llama").to(torch.bfloat16), "int8")[1].probe
    assert probe.uncompressed_difference < 1e-3
    assert 0 < probe.mean_difference < 0.2


def test_smaller_groups_take_more_bytes(export):
    assert size_of(export, group_size=32) > size_of(export, group_size=64) > size_of(export, group_size=-1)


def test_a_smaller_share_of_layers_in_4_bits_takes_more_bytes(export):
    assert size_of(export, ratio=0.3) > size_of(export, ratio=0.7) > size_of(export, ratio=1.0)


@pytest.mark.parametrize(("width", "finest"), [(96, 32), (80, 8)])
def test_a_group_size_that_divides_no_layer_gives_a_model_all_the_same(width, finest, export):
    model = build("llama", intermediate_size=width)
    _, report = export(model, "int4", group_size=128)
    assert math.isfinite(report.probe.max_difference)


@pytest.mark.parametrize("settings", DATA_AWARE, ids=lambda settings: "+".join(settings))
@pytest.mark.slow
def test_calibrated_compression_gives_other_weights_than_data_free(settings, export):
    free = export(build("llama"), "int4", group_size=32)[1].probe
    calibrated = export(build("llama"), "int4", group_size=32, calibration=TEXTS, **settings)[1].probe
    assert calibrated.uncompressed_difference < 1e-3
    assert calibrated.mean_difference != free.mean_difference
    assert calibrated.paged_difference < 1e-3
