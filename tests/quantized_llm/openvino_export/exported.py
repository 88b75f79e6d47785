"""An exported folder, asked through the plain form of its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from transformers import PreTrainedModel

from mlflow_llm_plugins.generation.openvino.signal_stack import signal_stack_kept

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def logprobs_of(folder: Path, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Log-probabilities over the vocabulary at each position: [rows, tokens, vocabulary]."""
    with signal_stack_kept():
        request = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", FLOAT32).create_infer_request()
    mask = torch.ones_like(ids) if mask is None else mask
    inputs: dict[str, Any] = {
        "input_ids": ids.numpy(),
        "attention_mask": mask.numpy(),
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0).numpy(),
        "beam_idx": np.arange(len(ids), dtype=np.int32),
    }
    logits = torch.from_numpy(request.infer(inputs)["logits"].copy())
    return logits.double().log_softmax(-1)


@torch.no_grad()
def torch_logprobs(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """The same by the model itself."""
    return model(input_ids=ids).logits.double().log_softmax(-1)


def random_ids(rows: int, tokens: int, seed: int = 11) -> torch.Tensor:
    """Ids of bytes: [rows, tokens]."""
    return torch.randint(7, 263, (rows, tokens), generator=torch.Generator().manual_seed(seed))
