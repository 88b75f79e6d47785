"""The exported folder, and what an export leaves of the model and the process: nothing."""

from __future__ import annotations

import json
import logging
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoTokenizer, GenerationConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mlflow_llm_plugins import hardware
from mlflow_llm_plugins.errors import HardwareError, InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.signal_stack import signal_stack_kept
from mlflow_llm_plugins.quantized_llm.openvino_export import probe
from mlflow_llm_plugins.quantized_llm.openvino_export.attention import registered
from mlflow_llm_plugins.quantized_llm.openvino_export.export import export_model
from mlflow_llm_plugins.quantized_llm.openvino_export.likelihoods import by_continuous_batching
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe
from tests.models import byte_tokenizer, random_model
from tests.quantized_llm.openvino_export.architectures import build
from tests.quantized_llm.openvino_export.exported import logprobs_of, random_ids, torch_logprobs
from tests.quantized_llm.openvino_export.full_disk import limited_files
from tests.quantized_llm.openvino_export.unconvertible import unconvertible_tokenizer

AS_IT_IS = OpenVINORecipe(weight_format="none")
FILES = {
    *("openvino_model.xml", "openvino_model.bin", "config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *(f"openvino_{kind}.{end}" for kind in ("tokenizer", "detokenizer") for end in ("xml", "bin")),
}


def state_of_process():
    tables = (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS, ALL_EXPERTS_FUNCTIONS)
    functions = (torch.bmm, torch.nn.functional.linear, torch.nn.functional.scaled_dot_product_attention)
    return (
        [dict(table) for table in tables],
        functions,
        logging.getLoggerClass(),
        logging.root.level,
        logging.getLogger("nncf").level or logging.INFO,  # which its import sets
        list(logging.root.handlers),
        list(warnings.filters),
        torch.is_grad_enabled(),
    )


def state_of_model(model):
    return {
        "config": model.config.to_dict(),
        "attention": model.config._attn_implementation,
        "experts": model.config._experts_implementation,
        "training": [module.training for module in model.modules()],
        "parameters": [(name, id(p), p.data_ptr(), p.dtype, p.requires_grad) for name, p in model.named_parameters()],
        "buffers": [(name, b.dtype) for name, b in model.named_buffers()],
        "forward": ["forward" in vars(module) for module in model.modules()],
    }


def test_the_folder_has_all_that_a_server_needs(exported_llama):
    folder, report = exported_llama
    assert {file.name for file in folder.iterdir()} >= FILES
    assert report.weight_bytes == (folder / "openvino_model.bin").stat().st_size
    assert report.traced_dtype == "float32"
    assert report.seconds > 0
    assert json.loads(json.dumps(report.probe.as_dict()))["top1_agreement"] == 1.0


def test_configuration_and_tokenizer_read_back(exported_llama):
    folder, _ = exported_llama
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["max_position_embeddings"]) == ("llama", 256)
    text = "An answer <|end|>"
    assert AutoTokenizer.from_pretrained(folder)(text).input_ids == byte_tokenizer()(text).input_ids


def test_a_generation_config_that_contradicts_itself_is_kept(export):
    model = build("llama")
    model.generation_config = GenerationConfig(do_sample=False, temperature=0.3, eos_token_id=[1, 6])
    folder, _ = export(model)
    written = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert (written["temperature"], written["eos_token_id"]) == (0.3, [1, 6])


def test_operations_are_named_by_the_modules_of_the_checkpoint(exported_llama):
    folder, _ = exported_llama
    text = (folder / "openvino_model.xml").read_text(encoding="utf-8")
    named = set(re.findall(r'name="__module\.([^"/]+)/[^"]*MatMul', text))
    linear = {name for name, module in build("llama").named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear <= named


@pytest.mark.slow
def test_an_adapter_of_peft_finds_its_layers_by_their_names(exported_llama, tmp_path):
    import numpy as np
    import openvino as ov
    import openvino_genai as genai
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(build("llama"), config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    adapted.save_pretrained(tmp_path)

    adapters = genai.AdapterConfig(genai.Adapter(str(tmp_path / "adapter_model.safetensors")))
    scheduler, request = genai.SchedulerConfig(), genai.GenerationConfig()
    scheduler.cache_size, scheduler.num_kv_blocks = 0, 8
    request.max_new_tokens, request.ignore_eos, request.adapters = 12, True, adapters
    properties = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "adapters": adapters}
    with signal_stack_kept():
        pipeline = genai.ContinuousBatchingPipeline(str(exported_llama[0]), scheduler, "CPU", properties)
    ids = random_ids(1, 9)
    (result,) = pipeline.generate([ov.Tensor(ids.numpy().astype(np.int64))], [request])
    expected = adapted.generate(input_ids=ids, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert result.m_generation_ids[0] == expected[0, 9:].tolist()


def test_tied_embeddings_are_stored_once(export):
    tied, apart = (export(build("llama", tie_word_embeddings=is_tied))[1].weight_bytes for is_tied in (True, False))
    embedding = build("llama").get_input_embeddings().weight
    assert apart - tied == embedding.numel() * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_are_traced_and_stored_in_16_bits(export, dtype):
    model = build("llama_tied").to(dtype)
    folder, report = export(model)
    assert report.traced_dtype == str(dtype).removeprefix("torch.")
    assert report.weight_bytes < 1.05 * sum(p.numel() * p.element_size() for p in model.parameters())
    ids = random_ids(1, 30)
    difference = (logprobs_of(folder, ids) - torch_logprobs(model.float(), ids)).abs().max()
    assert difference < 1e-3


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mixtral", "gpt_oss"])
def test_other_modules_than_linear_ones_keep_their_16_bits_too(export, name):
    model = build(name).to(torch.bfloat16)
    _, report = export(model)
    assert report.probe.uncompressed_difference < 1e-3
    assert report.weight_bytes < 1.1 * sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp16_answers_as_torch_on_weights_rounded_to_fp16(export, dtype):
    model = build("llama").to(dtype)
    folder, report = export(model, "fp16")
    assert report.traced_dtype == "float16"
    for parameter in model.float().parameters():
        parameter.data = parameter.data.half().float()
    ids = random_ids(1, 30)
    difference = (logprobs_of(folder, ids) - torch_logprobs(model, ids)).abs().max()
    assert difference < 1e-3


def test_weights_beyond_the_range_of_fp16_become_its_largest_number(export):
    model = build("llama").to(torch.bfloat16)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = 1e6
    _, report = export(model, "fp16")
    assert report.probe.uncompressed_difference < 1e-3


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("weight_format", ["none", "int8"])
def test_model_and_process_are_as_they_were(weight_format, fails, tmp_path):
    model = build("mixtral").to(torch.bfloat16).train()
    model.set_attn_implementation("eager")
    if fails:
        with torch.no_grad():
            model.lm_head.weight.fill_(float("nan"))
    before, process = state_of_model(model), state_of_process()
    recipe = OpenVINORecipe(weight_format=weight_format)
    if fails:
        with pytest.raises(UnsupportedFeatureError, match=r"MixtralForCausalLM .* no finite numbers"):
            export_model(model, byte_tokenizer(), tmp_path, recipe)
    else:
        export_model(model, byte_tokenizer(), tmp_path, recipe)
    assert state_of_model(model) == before
    assert state_of_process() == process


def test_exports_in_two_threads_do_not_disturb_one_another(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    models, process = [build("llama"), build("mixtral")], state_of_process()
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(export_model, model, byte_tokenizer(), folder, OpenVINORecipe(weight_format="int8"))
            for model, folder in zip(models, folders, strict=True)
        ]
        reports = [job.result(timeout=120) for job in jobs]
    assert max(report.probe.uncompressed_difference for report in reports) < 1e-3
    assert state_of_process() == process


def test_only_one_thread_at_a_time_has_functions_registered():
    entered, left = threading.Event(), threading.Event()

    def second():
        with registered():
            entered.set()

    with registered():
        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        assert not entered.wait(0.2)
        left.set()
    assert left.is_set()
    assert entered.wait(10)
    thread.join(10)


class _Forked(torch.nn.Module):
    """A head that answers longer texts otherwise, which a trace cannot see."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, states):
        return self.head(states) * (1.5 if states.shape[1] > 10 else 1.0)


@pytest.mark.parametrize("weight_format", ["none", "int8"])
def test_an_export_that_answers_otherwise_than_torch_is_refused(weight_format, tmp_path):
    model = random_model("llama")
    model.lm_head = _Forked(model.lm_head)
    recipe = OpenVINORecipe(weight_format=weight_format)
    with pytest.raises(UnsupportedFeatureError, match=r"LlamaForCausalLM .* than torch: .* differ by [0-9.]+"):
        export_model(model, byte_tokenizer(), tmp_path, recipe)


def test_a_paged_form_that_answers_otherwise_is_compared_with_the_plain_form(tmp_path, monkeypatch):
    def disturbed(*arguments):
        ids, logprobs = by_continuous_batching(*arguments)
        return ids, logprobs - 0.5

    monkeypatch.setattr(probe, "by_continuous_batching", disturbed)
    with pytest.raises(UnsupportedFeatureError) as caught:
        export_model(build("llama"), byte_tokenizer(), tmp_path, AS_IT_IS)
    assert "the exported model's paged form answers otherwise than its plain form: log-pr" in str(caught.value)
    assert "differ by 0.5" in str(caught.value)


class _Greedy(torch.nn.Module):
    """A head that wants more memory than any machine has."""

    def __init__(self, raised=None):
        super().__init__()
        self.raised = raised

    def forward(self, states):
        if self.raised:
            raise self.raised
        return torch.empty(2**58)


@pytest.mark.parametrize(
    "raised", [None, RuntimeError("std::bad_alloc"), MemoryError("no memory")], ids=["torch", "openvino", "python"]
)
def test_memory_that_is_too_small_is_no_fault_of_the_model(tmp_path, raised):
    model = random_model("llama")
    model.lm_head = _Greedy(raised)
    with pytest.raises(HardwareError, match=r"LlamaForCausalLM .* on this machine: its memory is too small"):
        export_model(model, byte_tokenizer(), tmp_path, AS_IT_IS)


def test_a_full_disk_is_no_fault_of_the_model(tmp_path):
    with limited_files(), pytest.raises(OSError, match="No space left on device") as caught:
        export_model(build("llama"), byte_tokenizer(), tmp_path, AS_IT_IS)
    assert caught.value.filename == str(tmp_path)


def test_a_tokenizer_that_openvino_lacks_leaves_a_model_without_constraints(tmp_path, caplog):
    tokenizer = unconvertible_tokenizer()
    report = export_model(build("llama"), tokenizer, tmp_path, AS_IT_IS)
    written = {file.name for file in tmp_path.iterdir()}
    assert FILES - written == {file for file in FILES if "tokenizer." in file and file.startswith("openvino")}
    assert report.probe.paged_difference is not None
    assert [message for message in caplog.messages if "constrained output" in message] == [
        f"{type(tokenizer).__name__} cannot be converted for OpenVINO (Pre-tokenizer type 'UnicodeScripts' is not "
        "supported: 'UnicodeScripts'). The model refuses constrained output (response_format, regex, choice and "
        "whatever else prescribes an answer's form); other requests it answers."
    ]


def test_where_memory_is_short_the_probe_does_without_float32(export, monkeypatch):
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 0)
    found = export(build("llama").to(torch.bfloat16))[1].probe
    assert not found.is_exact
    assert found.mean_difference < 0.25


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="older releases share buffers, which no trace can hold"
)
def test_the_context_of_long_rotary_factors_ends_where_they_begin(export, caplog):
    folder, _ = export(random_model("phi3_longrope"))
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"] == 64
    assert "Beyond 64 tokens" in caplog.text


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "old.bin").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=re.escape(str(tmp_path))):
        export_model(build("llama"), byte_tokenizer(), tmp_path, AS_IT_IS)


def test_a_model_without_weights_in_memory_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"some of them are not loaded \(device meta\)"):
        export_model(build("llama").to("meta"), byte_tokenizer(), tmp_path, AS_IT_IS)


def test_quantized_weights_are_refused(tmp_path):
    model = build("llama")
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(UnsupportedFeatureError, match="export the original"):
        export_model(model, byte_tokenizer(), tmp_path, AS_IT_IS)


@pytest.mark.parametrize(("weight_format", "stages"), [("none", 4), ("int8", 5)])
def test_a_terminal_shows_the_stages(weight_format, stages, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    export_model(build("llama"), byte_tokenizer(), tmp_path, OpenVINORecipe(weight_format=weight_format))
    shown = capsys.readouterr()
    assert "Exporting to OpenVINO" in shown.err
    assert "tracing" in shown.err
    assert f"{stages}/{stages}" in shown.err
    assert shown.out == ""


def test_nothing_is_shown_where_there_is_no_terminal(tmp_path, capsys):
    export_model(build("llama"), byte_tokenizer(), tmp_path, OpenVINORecipe(weight_format="int4", group_size=32))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Exporting" not in shown.err


def test_weights_in_float64_are_refused_with_what_to_load_instead(tmp_path):
    with pytest.raises(InvalidInputError) as caught:
        export_model(build("llama").double(), byte_tokenizer(), tmp_path, AS_IT_IS)
    assert str(caught.value) == (
        "The export takes weights in float32, bfloat16, float16, and this model has float64. Load it in float32."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_weights_are_not_loaded_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"not loaded \(device meta\)\. Load the model with"):
        export_model(build("llama").to("meta"), byte_tokenizer(), tmp_path, AS_IT_IS)
