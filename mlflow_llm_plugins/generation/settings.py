"""What can be set on an engine; every key can be overridden at load and serve time."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlflow_llm_plugins.settings import Settings


class EngineSettings(Settings):
    """Settings of a generation engine. None means that the engine decides and logs what it chose."""

    max_new_tokens: int = Field(
        256, ge=1, description="New tokens of a request that names no limit, cut to what the context leaves."
    )
    max_context_length: int | None = Field(
        None, ge=8, description="Tokens of prompt and answer together; None: the model's own limit."
    )
    max_requests_per_batch: int = Field(32, ge=1, le=1024, description="Requests that generate together.")
    max_batch_tokens: int | None = Field(
        None,
        ge=16,
        description="Tokens of one step; a longer prompt is prefilled in chunks of this size. None: 256.",
    )
    max_queue_size: int = Field(
        256, ge=1, description="Requests that may be open, waiting or running; one more is refused."
    )
    request_timeout_s: float | None = Field(
        None,
        gt=0,
        description="After this long a request ends with an error. None: the scoring server's own timeout "
        "where one applies, else an hour.",
    )
    page_size: int = Field(32, ge=4, description="Tokens of a page of the KV cache; prefixes are shared by page.")
    num_blocks: int | None = Field(
        None, ge=2, description="Pages of the KV cache; None: from context and batch, under kv_cache_memory."
    )
    kv_cache_memory: float = Field(
        0.25,
        gt=0,
        le=0.9,
        description="Share of the memory free after loading that the KV cache may take; each engine and worker counts "
        "for itself.",
    )
    prefix_caching: bool = Field(True, description="Reuse the cache of prompts that begin alike.")
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads; None: MLFLOW_LLM_NUM_THREADS, else the CPUs really granted."
    )
    per_request_attention: bool = Field(
        True, description="On a CPU: attention of each request over its own keys, instead of all over all keys."
    )
    packed_weights: bool | None = Field(
        None,
        description="On a CPU: linear layers on packed weights; None: where a measurement at load finds it faster.",
    )
    spin_threads: bool | None = Field(
        None,
        description="On a CPU: threads spin between operations and do not sleep, which is faster, on shared CPUs far "
        "slower. None: as long as nothing else wants the CPUs, which is looked at in each step.",
    )
    tune_allocator: bool = Field(
        True, description="On a CPU with glibc: keep large buffers mapped between steps, for the whole process."
    )
    inference_precision: Literal["f32", "bf16", "f16"] | None = Field(
        None,
        description="With the engine openvino: the precision of the arithmetic. None: the library's choice for this "
        "CPU, bf16 where the CPU has it.",
    )
    kv_cache_precision: Literal["f32", "bf16", "f16", "u8"] | None = Field(
        None,
        description="With the engine openvino: the precision of kept keys and values. None: the library's choice for "
        "this CPU, u8 on most.",
    )
    step_timeout_s: float = Field(
        300, gt=0, description="A step that takes longer counts as the engine's death: open requests fail."
    )
    max_restarts: int = Field(
        3,
        ge=0,
        description="Restarts of a generation thread that died, within an hour; after them the engine is dead.",
    )
