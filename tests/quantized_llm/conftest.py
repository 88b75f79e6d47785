"""Tiny checkpoints to save, log and load. Read only: copy one before changing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.models import byte_tokenizer, random_model, save_checkpoint

# Widths are multiples of 64, a block of bitsandbytes' 4-bit types.
SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "tie_word_embeddings": True}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def llama() -> PreTrainedModel:
    """A model in memory, made anew for each test."""
    return random_model("llama", **SIZES)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], Path]:
    """Name of a dtype -> directory of the same Llama saved with it."""
    made: dict[str, Path] = {}

    def checkpoint(dtype: str) -> Path:
        if dtype not in made:
            model = random_model("llama", **SIZES).to(getattr(torch, dtype))
            made[dtype] = save_checkpoint(tmp_path_factory.mktemp(dtype), model, tokenizer)
        return made[dtype]

    return checkpoint


@pytest.fixture(scope="session")
def checkpoint(checkpoints: Callable[[str], Path]) -> Path:
    return checkpoints("float32")


@pytest.fixture
def token_ids() -> torch.Tensor:
    """One prompt."""
    return torch.randint(7, 263, (1, 12), generator=torch.Generator().manual_seed(7))
