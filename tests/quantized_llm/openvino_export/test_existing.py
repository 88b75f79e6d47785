"""What is told of a folder with an OpenVINO model, ours or another's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time

import pytest

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.generation.openvino.ir_description import KVShape
from mlflow_llm_plugins.quantized_llm.openvino_export.existing import describe, is_openvino_folder
from tests.models import VOCAB_SIZE
from tests.quantized_llm.openvino_export.architectures import build

MODEL = "openvino_model.xml"


@pytest.fixture
def copy(exported_llama, tmp_path):
    """A folder that a test may break."""
    return shutil.copytree(exported_llama[0], tmp_path / "copy")


def edit(folder, pattern, replacement, count=0):
    text = (folder / MODEL).read_text(encoding="utf-8")
    edited = re.sub(pattern, replacement, text, count=count)
    assert edited != text
    (folder / MODEL).write_text(edited, encoding="utf-8")


def test_a_model_is_described_by_its_graph(exported_llama):
    found = describe(exported_llama[0])
    assert (found.weight_format, found.group_size, found.symmetric) == ("fp32", None, None)
    assert found.vocab_size == VOCAB_SIZE
    assert found.kv_layers == (KVShape(2, 16, 2, 16),) * 2
    assert found.kv_layers[0].values == 64
    assert found.has_tokenizer_ir


@pytest.mark.parametrize(
    ("dtype", "weight_format", "expected"), [("bfloat16", "none", "bf16"), ("float32", "fp16", "fp16")]
)
def test_weights_of_16_bits_are_told_apart(dtype, weight_format, expected, export):
    import torch

    folder, _ = export(build("llama").to(getattr(torch, dtype)), weight_format)
    assert describe(folder).weight_format == expected


def test_layers_may_differ_in_their_heads(export):
    folder, _ = export(build("gpt2"))
    assert describe(folder).kv_layers == (KVShape(4, 16, 4, 16),) * 2


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model.bin", "config.json"])
def test_a_folder_that_lacks_a_file_is_none(copy, name):
    assert is_openvino_folder(copy)
    (copy / name).unlink()
    assert not is_openvino_folder(copy)
    with pytest.raises(CheckpointError, match=f"it has no {name}"):
        describe(copy)


def test_a_tokenizer_without_its_detokenizer_does_not_count(copy):
    (copy / "openvino_detokenizer.bin").unlink()
    assert not describe(copy).has_tokenizer_ir


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ("beam_idx", "beams", "no input 'beam_idx'"),
        ("position_ids", "positions", "no input 'position_ids'"),
        ("logits", "hidden", "no output 'logits'"),
        (r"(variable_id=\")past_key_values", r"\1cache", "keys and values of all layers"),
        (r"(variable_id=\"past_key_values\.)1\.", r"\g<1>2.", "keys and values of all layers"),
    ],
)
def test_a_model_that_genai_does_not_serve_is_refused(copy, pattern, replacement, message):
    edit(copy, pattern, replacement)
    with pytest.raises(CheckpointError, match=message):
        describe(copy)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_weights_that_are_cut_off_are_refused_with_both_sizes(copy, keep):
    file = copy / "openvino_model.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    with pytest.raises(CheckpointError) as caught:
        describe(copy)
    assert str(caught.value) == (
        f"{file} is damaged: it has {len(whole[:keep]):,} bytes, and the graph beside it needs {len(whole):,}. Copy "
        "or download it again."
    )


def parameter(name):
    return (
        f'<layer id="999" name="{name}" type="Parameter"><data shape="?,?" element_type="i64" />'
        f'<output><port id="0" names="{name}" /></output></layer>'
    )


def test_an_input_that_is_not_known_is_refused_by_name(copy):
    edit(copy, "</layers>", parameter("token_type_ids") + "</layers>", count=1)
    with pytest.raises(CheckpointError) as caught:
        describe(copy)
    assert str(caught.value).startswith(f"{copy / MODEL} has inputs that nothing is known of here: token_type_ids. ")
    assert "attention_mask, beam_idx, input_ids, position_ids" in str(caught.value)


def test_inputs_of_a_loops_body_are_not_those_of_the_model(copy):
    loop = f'<layer id="998" name="loop" type="Loop"><body><layers>{parameter("inner")}</layers></body></layer>'
    edit(copy, "</layers>", loop + "</layers>", count=1)
    assert describe(copy).vocab_size == VOCAB_SIZE


def test_a_damaged_graph_is_refused_with_its_name(copy):
    text = (copy / MODEL).read_text(encoding="utf-8")
    (copy / MODEL).write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(CheckpointError, match=re.escape(str(copy / MODEL))):
        describe(copy)


@pytest.mark.parametrize("mode", ["nf4", "mxfp4"])
def test_a_format_of_nncf_that_we_do_not_write_keeps_its_name(copy, mode):
    record = f'<nncf><weight_compression><group_size value="32" /><mode value="{mode}" /></weight_compression></nncf>'
    edit(copy, r"</rt_info>\s*</net>", f"{record}</rt_info></net>")
    found = describe(copy)
    assert (found.weight_format, found.group_size, found.symmetric) == (mode, 32, None)


def test_describing_needs_neither_openvino_nor_torch(exported_llama):
    code = (
        "import sys; from pathlib import Path\n"
        "from mlflow_llm_plugins.generation.openvino.ir_description import describe_ir\n"
        f"describe_ir(Path({str(exported_llama[0] / MODEL)!r}))\n"
        "print([name for name in ('openvino', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_large_graph_is_read_in_a_moment(copy):
    layer = '<layer id="9" name="c" type="Const"><data element_type="f32" shape="4" offset="0" size="16" /></layer>'
    edit(copy, "</layers>", layer * 20_000 + "</layers>", count=1)
    start = time.monotonic()
    describe(copy)
    assert time.monotonic() - start < 5
