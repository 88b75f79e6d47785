"""What saving will do: every check before any weight is read, then the model folder of the artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.quantized_llm.checkpoint import Checkpoint, architecture_of, read_config
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.documents import copy_documents, license_of
from mlflow_llm_plugins.quantized_llm.quantization import (
    Quantization,
    check_environment,
    check_savable,
    of_checkpoint,
    parse_quantization,
    still_to_apply,
)
from mlflow_llm_plugins.quantized_llm.record import FlavorRecord, QuantizationRecord, Task, WeightsRecord
from mlflow_llm_plugins.quantized_llm.requirements import library_versions
from mlflow_llm_plugins.quantized_llm.source import ModelSource, find_source
from mlflow_llm_plugins.quantized_llm.template import (
    check_prompt_template,
    choose_task,
    request_defaults,
    write_request_defaults,
)
from mlflow_llm_plugins.quantized_llm.tokenizer import (
    chat_template_of,
    check_chat_template,
    fingerprint,
    save_tokenizer,
)
from mlflow_llm_plugins.quantized_llm.weights import (
    check_weights,
    checkpoint_of,
    copy_checkpoint,
    count_parameters,
    write_configuration,
    write_model,
    write_quantized,
)


@dataclass(frozen=True, slots=True)
class SavePlan:
    """What will be saved, checked; no weight has been read yet."""

    source: ModelSource
    config: ModelConfig
    reference: WeightsRecord | None  # None: the weights themselves are saved
    quantize: Quantization | None  # while saving
    quantize_at_load: Quantization | None
    task: Task
    chat_template: str | None  # given, instead of the tokenizer's
    prompt_template: str | None
    request_defaults: dict[str, Any] | None
    parameters: int | None  # logical; None: only counted when the model in memory is written

    def write(self, folder: Path, *, staged: bool) -> FlavorRecord:
        """Write the model folder and describe what it holds.

        Args:
            folder: Made here.
            staged: The folder is itself copied and deleted soon, so links to weights do.
        """
        folder.mkdir()
        save_tokenizer(self.source.tokenizer, folder, self.chat_template)
        if self.source.folder:
            copy_documents(self.source.folder, folder)
        if self.reference:
            write_configuration(self.source, folder)
            if checkpoint := self.source.local_checkpoint():
                check_weights(checkpoint, self.source.trust_remote_code)
            stored_dtype, weight_bytes = self.source.weights_header()
            dtype = self.source.dtype or stored_dtype
        else:
            self._write_weights(folder, staged)
            written = Checkpoint.open(folder)
            dtype, weight_bytes = written.dtype, written.weight_bytes
        write_request_defaults(folder, self.request_defaults)
        return self._record(folder, dtype, weight_bytes)

    def _write_weights(self, folder: Path, staged: bool) -> None:
        source = self.source
        if self.quantize:
            with checkpoint_of(source) as checkpoint:
                dtype = self.config.dtype or source.dtype or checkpoint.dtype
                write_quantized(checkpoint, folder, self.quantize.for_dtype(dtype), dtype, source.trust_remote_code)
        elif source.model is not None:
            write_model(source.model, folder)
        else:
            checkpoint = source.open_checkpoint()
            check_weights(checkpoint, source.trust_remote_code)
            copy_checkpoint(checkpoint, folder, staged=staged, code=source.trust_remote_code)

    def _record(self, folder: Path, dtype: str, weight_bytes: int) -> FlavorRecord:
        source = self.source
        quantization = self._quantization_record(folder, dtype)
        template = self.chat_template or chat_template_of(source.tokenizer)
        return FlavorRecord(
            task=self.task,
            weights=self.reference or WeightsRecord(location="artifact"),
            quantization=quantization,
            dtype=dtype,
            parameters=self.parameters or count_parameters(folder, source.trust_remote_code),
            weight_bytes=weight_bytes,
            architecture=architecture_of(source.config),
            base_model=source.base_model,
            base_commit=source.repo.commit if source.repo else None,
            license=license_of(folder),
            trust_remote_code=source.trust_remote_code,
            chat_template_sha256=fingerprint(template),
            prompt_template=self.prompt_template,
            generation_config=self.request_defaults,
            library_versions=library_versions(quantization.config.get("quant_method") if quantization else None),
        )

    def _quantization_record(self, folder: Path, dtype: str) -> QuantizationRecord | None:
        stored = of_checkpoint(read_config(folder))
        if stored:
            return stored.record("when saved")
        if self.quantize_at_load:
            return self.quantize_at_load.completed(self.config.dtype or dtype).record("when loaded")
        return None


def plan_save(
    model: Any,
    *,
    tokenizer: Any,
    quantization: Any,
    revision: str | None,
    save_pretrained: bool,
    task: str | None,
    chat_template: str | None,
    prompt_template: str | None,
    generation_config: Any,
    config: ModelConfig,
    trust_remote_code: bool,
) -> SavePlan:
    """Check everything that can be checked without reading a weight; arguments as for `save_model`.

    Raises:
        LLMError: Whatever would make saving fail, or the artifact useless.
    """
    requested, at_load = parse_quantization(quantization), parse_quantization(config.quantization)
    if requested and at_load:
        raise InvalidInputError(
            f"quantization={requested.method!r}, and engine_config has quantization={at_load.method!r} for when the "
            "model is loaded. Give one of them."
        )
    check_prompt_template(prompt_template)
    defaults = request_defaults(generation_config)
    source = find_source(
        model,
        tokenizer=tokenizer,
        revision=revision,
        trust_remote_code=trust_remote_code,
        by_reference=not save_pretrained,
    )
    check_chat_template(source.tokenizer, chat_template)
    quantize, at_load = _decide(source, requested, at_load, save_pretrained)
    counted = source.folder if source.model is None else None
    return SavePlan(
        source=source,
        config=config.without("quantization"),
        reference=None if save_pretrained else source.reference(),
        quantize=quantize,
        quantize_at_load=at_load,
        task=choose_task(task, chat_template or chat_template_of(source.tokenizer)),
        chat_template=chat_template,
        prompt_template=prompt_template,
        request_defaults=defaults,
        parameters=count_parameters(counted, trust_remote_code) if counted else None,
    )


def _decide(
    source: ModelSource, requested: Quantization | None, at_load: Quantization | None, save_pretrained: bool
) -> tuple[Quantization | None, Quantization | None]:
    """What to quantize while saving, and what to record for loading."""
    if save_pretrained:
        stored = of_checkpoint(source.config)
        requested = still_to_apply(requested, stored)
    else:  # a model in memory may be quantized though what it was loaded from is not
        stored = of_checkpoint(source.stored_config())
        requested, at_load = None, requested or at_load or of_checkpoint(source.config)
    if requested:
        check_environment(requested, pre_quantized=False)
        check_savable(requested)
    return requested, still_to_apply(at_load, stored)
