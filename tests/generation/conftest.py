"""Engines over tiny random models, shared by the tests of a module and closed after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mlflow_llm_plugins.generation import EngineSettings, GenerationEngine, open_engine
from mlflow_llm_plugins.quantized_llm.openvino_export.export import export_model
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe
from tests.models import FIRST_BYTE_ID, FIRST_UNUSED_ID, byte_tokenizer, random_model

SMALL = EngineSettings(max_requests_per_batch=4, max_batch_tokens=32, kv_cache_memory=0.05)
EXACT = {"inference_precision": "f32", "kv_cache_precision": "f32"}  # so that OpenVINO answers as torch does


def settings_for(engine: str, settings: EngineSettings = SMALL) -> EngineSettings:
    """The settings, with those that make the engine exact."""
    return settings.model_copy(update=EXACT) if engine == "openvino" else settings


def random_prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Token ids of bytes, one prompt for each length."""
    generator = random.Random(seed)
    return [[generator.randrange(FIRST_BYTE_ID, FIRST_UNUSED_ID) for _ in range(length)] for length in lengths]


@torch.no_grad()
def plain_logprobs(model: Any, ids: list[int]) -> list[float]:
    """Log-probability of tokens 2 to n under one plain forward pass, batch of one."""
    logprobs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return logprobs[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()


@torch.no_grad()
def plain_greedy(model: Any, prompt: list[int], new_tokens: int) -> list[int]:
    """What `model.generate` answers to one prompt alone."""
    ids = torch.tensor([prompt])
    answer = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return answer[0, len(prompt) :].tolist()


@pytest.fixture(scope="session")
def ir_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function: arguments of `random_model` -> the folder of its OpenVINO IR in float32; exported once."""
    folders: dict[tuple[Any, ...], Path] = {}

    def export(kind: str, **config_overrides: Any) -> Path:
        key = (kind, *sorted(config_overrides.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(f"ir-{kind}")
            recipe = OpenVINORecipe(weight_format="none")
            export_model(random_model(kind, **config_overrides), byte_tokenizer(), folders[key], recipe)
        return folders[key]

    return export


@pytest.fixture(scope="session")
def loadable(ir_folder: Callable[..., Path]) -> Callable[[str, str], Any]:
    """A function: (kind of model, engine) -> what that engine takes, nobody else's."""
    return lambda kind, engine: ir_folder(kind) if engine == "openvino" else random_model(kind)


@pytest.fixture(scope="module")
def open_model(loadable: Callable[[str, str], Any]) -> Iterator[Callable[..., tuple[Any, GenerationEngine]]]:
    """A function: kind of model -> (an untouched copy of it for reference, an engine on it), cached."""
    opened: dict[tuple[str, str, EngineSettings], tuple[Any, GenerationEngine]] = {}

    def open_kind(
        kind: str, engine: str = "transformers", settings: EngineSettings = SMALL
    ) -> tuple[Any, GenerationEngine]:
        key = (kind, engine, settings)
        if key not in opened:
            model = loadable(kind, engine)
            opened[key] = (
                random_model(kind),
                open_engine(model, byte_tokenizer(), settings_for(engine, settings), engine),
            )
        return opened[key]

    yield open_kind
    for _, engine in opened.values():
        engine.close()
