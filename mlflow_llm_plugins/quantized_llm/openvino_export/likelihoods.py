"""Log-probabilities of a text: by torch, by the plain form of an exported model, and by its paged form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.library_errors import library_reason
from mlflow_llm_plugins.generation.openvino.signal_stack import signal_stack_kept
from mlflow_llm_plugins.quantized_llm.openvino_export.machine_errors import is_of_memory

# Without rounding activations to 8 bits; the second keeps activations, keys and values in float32, too. The paged form
# (2026.4) refuses keys and values in another type than the activations have, so they are left to the first alone.
UNROUNDED: Mapping[str, str] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
FLOAT32: Mapping[str, str] = {**UNROUNDED, "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
NEW_TOKENS = 40  # that the paged form generates
_CHUNK = 64  # tokens of one forward pass, so that the logits of a wide vocabulary stay small
_BLOCK = 32  # tokens in a block of the paged cache

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """What a model says of a text, position by position."""

    logprobs: Floats  # of each next token, [rows, tokens - 1], natural logarithms
    best: Ids  # the most likely one, [rows, tokens - 1]


def by_torch(model: Any, text: Ids) -> Likelihoods:
    """The reference.

    Args:
        model: A traceable copy, with its own attention still.
        text: Token ids, [rows, tokens].
    """
    import torch
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache()

    def forward(ids: Ids, past: int) -> Any:
        rows, new = ids.shape
        output = model(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.ones(rows, past + new, dtype=torch.long),
            position_ids=torch.arange(past, past + new).repeat(rows, 1),
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits.float().numpy()

    with torch.no_grad():
        return _likelihoods(forward, text)


def by_openvino(model: Any, text: Ids, properties: Mapping[str, str]) -> Likelihoods:
    """The plain form, run by the CPU plugin.

    Args:
        model: An `openvino.Model`, or the path of its xml file.
        text: Token ids, [rows, tokens].
        properties: Of the plugin.
    """
    import openvino as ov

    with signal_stack_kept():
        request = ov.Core().compile_model(model, "CPU", dict(properties)).create_infer_request()

    def forward(ids: Ids, past: int) -> Any:
        rows, new = ids.shape
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones((rows, past + new), np.int64),
            "position_ids": np.tile(np.arange(past, past + new, dtype=np.int64), (rows, 1)),
            "beam_idx": np.arange(rows, dtype=np.int32),
        }
        return request.infer(inputs)["logits"]

    return _likelihoods(forward, text)


def by_continuous_batching(folder: Path, prompt: Ids, properties: Mapping[str, str]) -> tuple[Ids, Floats] | None:
    """The paged form: a greedy answer with the log-probabilities of its tokens, [`NEW_TOKENS`] each.

    Args:
        folder: The exported files.
        prompt: Token ids, [1, tokens].
        properties: Of the plugin.

    Returns:
        None where openvino-genai is not installed.

    Raises:
        UnsupportedFeatureError: The library cannot bring the model into that form.
    """
    try:
        import openvino as ov
        import openvino_genai as genai
    except ImportError:
        return None
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 0  # in blocks instead
    scheduler.num_kv_blocks = math.ceil((prompt.shape[1] + NEW_TOKENS) / _BLOCK) + 2
    scheduler.max_num_batched_tokens = _CHUNK
    request = genai.GenerationConfig()
    request.max_new_tokens, request.ignore_eos, request.logprobs = NEW_TOKENS, True, 1
    try:
        with signal_stack_kept():
            pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", dict(properties))
        handle = pipeline.add_request(0, ov.Tensor(prompt), request)
        for _ in range(math.ceil(prompt.shape[1] / _CHUNK) + NEW_TOKENS):
            pipeline.step()
        if pipeline.has_non_finished_requests():
            raise UnsupportedFeatureError("OpenVINO GenAI does not end a request with it")
        output = handle.read_all()[0]
    except RuntimeError as error:
        if is_of_memory(error):
            raise
        raise UnsupportedFeatureError(
            f"OpenVINO GenAI cannot bring it into its paged form ({library_reason(error)})"
        ) from error
    return np.array(output.generated_ids), np.array(output.generated_log_probs)


def _likelihoods(forward: Callable[[Ids, int], Any], text: Ids) -> Likelihoods:
    """Run a text through a model with a cache, chunk by chunk."""
    logprobs, best = [], []
    for past in range(0, text.shape[1] - 1, _CHUNK):
        targets = text[:, past + 1 : past + _CHUNK + 1]
        logits = forward(text[:, past : past + targets.shape[1]], past)  # [rows, tokens, vocabulary]
        chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        largest = logits.max(axis=-1)
        total = np.log(np.exp(logits - largest[..., None]).sum(axis=-1, dtype=np.float64)) + largest
        logprobs.append(chosen - total)
        best.append(logits.argmax(axis=-1))
    return Likelihoods(np.concatenate(logprobs, axis=1), np.concatenate(best, axis=1))
