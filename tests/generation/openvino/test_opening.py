"""What the opener reads, plans, refuses and warns of; and what it never imports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from mlflow_llm_plugins.errors import CheckpointError, HardwareError, InvalidInputError
from mlflow_llm_plugins.generation import EngineSettings, GenerationRequest, open_engine
from mlflow_llm_plugins.generation.openvino.memory import memory_to_open, plan_beside_weights
from tests.generation.conftest import EXACT, SMALL, random_prompts, settings_for
from tests.models import MAX_LENGTH, byte_tokenizer, random_model

SETTINGS = settings_for("openvino", SMALL)
PROMPT = random_prompts(20, seed=4)[0]
CACHE_TOLD = "OpenVINO's KV cache takes "


@pytest.fixture
def folder(ir_folder, tmp_path):
    """A copy, to be spoiled."""
    return shutil.copytree(ir_folder("llama"), tmp_path / "model")


@pytest.fixture
def opened():
    """A function: folder, settings -> an engine, closed at the end."""
    engines = []

    def open_it(folder, tokenizer=None, **settings):
        settings = SETTINGS.model_copy(update=settings)
        engines.append(open_engine(folder, tokenizer or byte_tokenizer(), settings, "openvino"))
        return engines[-1]

    yield open_it
    for engine in engines:
        engine.close()


def answer(engine, **options):
    return engine.submit(GenerationRequest(PROMPT, **{"max_new_tokens": 20, **options})).result()


def edit(file, **values):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in {**content, **values}.items() if value is not None}))


def test_stats_tell_engine_context_cache_and_weights(opened, ir_folder):
    stats = opened(str(ir_folder("llama")), num_blocks=20).stats()
    assert (stats.engine, stats.state, stats.max_context_length) == ("openvino", "running", MAX_LENGTH)
    assert stats.cache_tokens == 640
    assert stats.weight_bytes == (ir_folder("llama") / "openvino_model.bin").stat().st_size


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("precision", [None, "u8", "f16", "f32"])
def test_the_cache_takes_what_was_planned(opened, ir_folder, caplog, kind, precision):
    caplog.set_level("DEBUG", "mlflow_llm_plugins")
    opened(ir_folder(kind), num_blocks=2**15, kv_cache_precision=precision)
    told = next(record.getMessage() for record in caplog.records if CACHE_TOLD in record.getMessage())
    planned = next(record.getMessage() for record in caplog.records if "with a KV cache of" in record.getMessage())
    taken = int(told.removeprefix(CACHE_TOLD).split()[0]) / 2**20
    assert f"({taken:.0f} MiB)" in planned


@pytest.mark.parametrize("place", ["generation_config.json", "config.json", "tokenizer"])
def test_the_end_tokens_are_those_of_the_first_place_that_names_any(opened, folder, place):
    free = answer(opened(folder), eos_token_ids=()).token_ids
    places = ["generation_config.json", "config.json", "tokenizer"]
    for earlier in places[: places.index(place)]:
        edit(folder / earlier, eos_token_id=None)
    tokenizer = byte_tokenizer()
    if place == "tokenizer":
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(free[5])
    else:
        edit(folder / place, eos_token_id=[free[5], 1])
    cut = answer(opened(folder, tokenizer))
    assert cut.token_ids == free[: free.index(free[5]) + 1]
    assert cut.finish_reason == "stop"


def test_end_tokens_of_a_request_replace_those_of_the_files(opened, folder):
    free = answer(opened(folder), eos_token_ids=()).token_ids
    edit(folder / "generation_config.json", eos_token_id=free[2], do_sample=True, temperature=2.0, top_k=5)
    engine = opened(folder)
    assert answer(engine, eos_token_ids=(free[9],)).token_ids == free[: free.index(free[9]) + 1]
    assert answer(engine, eos_token_ids=()).token_ids == free  # nor are the files' other defaults taken


@pytest.mark.parametrize("missing", ["openvino_model.xml", "openvino_model.bin", "config.json"])
def test_a_folder_without_its_model_is_refused_by_what_is_missing(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(CheckpointError) as error:
        open_engine(folder, byte_tokenizer(), SETTINGS, "openvino")
    assert str(error.value) == (
        f"{folder} is no folder of an OpenVINO model: it has no {missing}. Log the model with "
        "quantization='openvino-int8', or give the folder that optimum-intel has written."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"config\.json cannot be read: "),
        ("[1]", r"config\.json must hold a JSON object, got list\."),
        ("{}", r"config\.json must name a vocab_size, a whole number; it has None\."),
    ],
)
def test_a_config_that_says_nothing_is_refused(folder, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        open_engine(folder, byte_tokenizer(), SETTINGS, "openvino")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"page_size": 16},
            "page_size=16: on CPUs OpenVINO's cache has pages of 32 tokens and no others. Leave page_size out.",
        ),
        (
            {"kv_cache_precision": "f32"},
            "kv_cache_precision='f32' needs inference_precision='f32' beside it, got None.",
        ),
        (
            {"kv_cache_precision": "bf16", "inference_precision": "f32"},
            "kv_cache_precision='bf16' needs inference_precision='bf16' beside it, got 'f32'.",
        ),
    ],
)
def test_settings_that_the_library_does_not_have_are_refused(folder, settings, message):
    with pytest.raises(InvalidInputError) as error:
        open_engine(folder, byte_tokenizer(), EngineSettings(**settings), "openvino")
    assert str(error.value) == message


def test_a_share_of_the_memory_that_holds_no_cache_is_refused_before_anything_is_started(folder):
    edit(folder / "config.json", max_position_embeddings=10**6)
    with pytest.raises(HardwareError, match=r"^A share of 1e-12 of the free memory is 0 MiB, not enough for a KV"):
        open_engine(folder, byte_tokenizer(), SETTINGS.model_copy(update={"kv_cache_memory": 1e-12}), "openvino")


GB = 10**9
LARGE = {"weight_bytes": 8 * GB, "context": 8192, "bytes_per_token": 65_000}  # 8B parameters, 8 bits


def planned(available, weight_bytes, context, bytes_per_token, **settings):
    settings = EngineSettings(**settings)
    return plan_beside_weights(settings, context, bytes_per_token, weight_bytes=weight_bytes, available=available)


@pytest.mark.parametrize("settings", [{}, {"num_blocks": 20}], ids=["a share", "a number of pages"])
def test_a_model_that_fits_once_opens_and_warns_that_it_does_not_fit_twice(caplog, settings):
    plan = planned(14 * GB, **LARGE, **settings)
    assert plan.tokens >= 640
    assert [record.getMessage() for record in caplog.records] == [
        "Of the 14.0 GB of memory that are free, the weights take 9.6 GB when they are loaded. score, choose and "
        "logits load them once more, for which there may be no room: free memory, or load the model quantized, "
        "before they are used."
    ]


def test_a_model_that_fits_twice_leaves_the_second_copy_its_room(caplog):
    assert planned(24 * GB, **LARGE).bytes <= 0.25 * (24 - 2 * 1.2 * 8) * GB
    assert not caplog.records


def test_a_model_that_does_not_fit_once_is_refused():
    with pytest.raises(HardwareError, match=r"not enough for a KV cache of 65000 bytes a token\. Free memory"):
        planned(9 * GB, **LARGE)


@pytest.mark.parametrize(
    ("weight_bytes", "bytes_per_token"),
    [(40_000_000, 7_300), (7 * GB, 260_000), (8 * GB, 65_000), (70 * GB, 320_000)],
    ids=["40M", "7B with a key for each head", "8B", "70B"],
)
def test_what_a_model_needs_to_open_is_enough_for_a_small_cache(weight_bytes, bytes_per_token):
    plan = planned(memory_to_open(weight_bytes), weight_bytes, 8192, bytes_per_token)
    assert plan.tokens >= 256
    assert memory_to_open(weight_bytes) < 1.3 * weight_bytes + GB / 3


def test_tokens_without_a_logit_are_outside_the_vocabulary(opened, folder):
    edit(folder / "config.json", vocab_size=330)  # rows of the embedding; the logits have 320
    engine = opened(folder)
    for request in ({"repetition_penalty": 1.5}, {"stop_token_ids": (320,)}, {"eos_token_ids": (329,)}):
        with pytest.raises(InvalidInputError, match=r"outside the model's vocabulary of 320: ids go from 0 to 319\."):
            engine.submit(GenerationRequest([9, 320 if "repetition_penalty" in request else 319], **request))


def test_end_tokens_of_the_files_that_are_outside_the_vocabulary_are_left_out(opened, folder):
    free = answer(opened(folder), eos_token_ids=()).token_ids
    edit(folder / "generation_config.json", eos_token_id=[320, 10**9, free[5]])
    cut = answer(opened(folder), min_new_tokens=2)
    assert cut.token_ids == free[: free.index(free[5], 2) + 1]


@pytest.mark.parametrize(
    ("engine", "settings", "named"),
    [
        ("openvino", {"spin_threads": False, "tune_allocator": False}, "spin_threads, tune_allocator"),
        ("openvino", {"packed_weights": None, "max_requests_per_batch": 4}, None),
        ("transformers", EXACT, "inference_precision, kv_cache_precision"),
    ],
)
def test_settings_without_effect_are_named_once_at_opening(loadable, caplog, engine, settings, named):
    settings = SMALL.model_copy(update=settings)
    open_engine(loadable("llama", engine), byte_tokenizer(), settings, engine).close()
    told = [record.getMessage() for record in caplog.records if "have no effect" in record.getMessage()]
    assert told == ([f"With this engine these settings have no effect: {named}."] if named else [])


SCRIPT = """
import sys
from pathlib import Path
from mlflow_llm_plugins.generation import Constraint, EngineSettings, GenerationRequest, open_engine
from mlflow_llm_plugins.quantized_llm.file_tokenizer import load_file_tokenizer
tokenizer = load_file_tokenizer(Path(sys.argv[1]), name="tiny")
engine = open_engine(sys.argv[1], tokenizer, EngineSettings(num_blocks=20), "openvino")
prompt = tokenizer("hello").input_ids
constraint = Constraint("regex", "[a-z]{3}")
print(len(engine.submit(GenerationRequest(prompt, max_new_tokens=8, eos_token_ids=())).result().token_ids))
print(len(engine.submit(GenerationRequest(prompt, max_new_tokens=8, constraint=constraint)).result().text))
print(len(engine.score(["hello"])[0]), len(engine.choose(["hello"], ["a", "b"])[0]))
engine.close()
"""


def test_neither_parent_nor_child_imports_torch_or_transformers(ir_folder, tmp_path):
    for name in ("torch", "transformers", "nncf", "optimum"):
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')")
    path = [str(tmp_path), *(entry for entry in sys.path if entry)]  # the child's as well
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ir_folder("llama"))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", "3", "4", "2"]


def test_a_gpt2_that_ends_at_its_own_context_answers_to_its_last_place(opened, ir_folder):
    engine = opened(ir_folder("gpt2"))
    assert len(answer(engine, max_new_tokens=MAX_LENGTH - len(PROMPT), eos_token_ids=()).token_ids) == MAX_LENGTH - 20
    assert random_model("gpt2").config.n_positions == MAX_LENGTH
