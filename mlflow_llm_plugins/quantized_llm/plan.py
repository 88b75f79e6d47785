"""What saving will do: every check before any weight is read, then the model folder of the artifact."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm import openvino_weights
from mlflow_llm_plugins.quantized_llm.auto import is_named
from mlflow_llm_plugins.quantized_llm.checkpoint import Checkpoint, architecture_of, read_config
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.documents import copy_documents, license_of
from mlflow_llm_plugins.quantized_llm.plan_quantization import (
    plan_quantization,
    plan_without_export,
    wanted_quantization,
)
from mlflow_llm_plugins.quantized_llm.quantization import (
    Quantization,
    of_checkpoint,
)
from mlflow_llm_plugins.quantized_llm.record import (
    OPENVINO_FORMAT_VERSION,
    ExportRecord,
    FlavorRecord,
    QuantizationRecord,
    Task,
    WeightsRecord,
)
from mlflow_llm_plugins.quantized_llm.requirements import extra_of, library_versions
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
    with_chat_template,
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

_IN_OPENVINO = WeightsRecord(format="openvino", location="artifact")


@dataclass(frozen=True, slots=True)
class _Written:
    """What is in the model folder, or what it refers to."""

    weights: WeightsRecord
    dtype: str
    weight_bytes: int
    export: ExportRecord | None = None


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
    renew_tokenizer: bool = False  # of an OpenVINO model that has one: tokenizer or template were given
    reason: str | None = None  # why "auto" chose the quantization

    def recorded_config(self, record: FlavorRecord) -> ModelConfig:
        """The configuration for when the model is loaded, given what was written."""
        return self.config.without("dtype") if record.export else self.config

    def write(self, folder: Path, *, staged: bool) -> FlavorRecord:
        """Write the model folder and describe what it holds.

        Args:
            folder: Made here.
            staged: The folder is itself copied and deleted soon, so links to weights do.
        """
        folder.mkdir()
        try:
            written = self._write_reference(folder) if self.reference else self._write_weights(folder, staged)
        except UnsupportedFeatureError as error:
            if not self._may_choose_again:
                raise
            shutil.rmtree(folder)
            return self._without_export(str(error).rstrip(".")).write(folder, staged=staged)
        save_tokenizer(self.source.tokenizer, folder, self.chat_template)
        if self.source.folder:
            copy_documents(self.source.folder, folder)
        write_request_defaults(folder, self.request_defaults)
        return self._record(folder, written)

    @property
    def _may_choose_again(self) -> bool:
        """Whether an export is the choice of "auto"."""
        is_export = self.reference is None and self.quantize is not None and self.quantize.is_openvino
        return is_export and self.reason is not None and not is_named(self.config.engine)

    def _without_export(self, why_not: str) -> SavePlan:
        planned = plan_without_export(self.source, self.config, self.parameters, why_not)
        return replace(self, quantize=planned.now, reason=planned.reason)

    def _write_reference(self, folder: Path) -> _Written:
        write_configuration(self.source, folder)
        if checkpoint := self.source.local_checkpoint():
            check_weights(checkpoint, self.source.trust_remote_code)
        stored_dtype, weight_bytes = self.source.weights_header()
        assert self.reference is not None
        return _Written(self.reference, self.source.dtype or stored_dtype, weight_bytes)

    def _write_weights(self, folder: Path, staged: bool) -> _Written:
        if self.quantize and self.quantize.is_openvino:
            return self._export(folder, self.quantize)
        if self.source.openvino:
            assert self.source.folder is not None
            openvino_weights.copy_openvino(
                self.source.folder, folder, self._tokenizer(), staged=staged, renew_tokenizer=self.renew_tokenizer
            )
            return _Written(_IN_OPENVINO, self.source.openvino.dtype, self.source.openvino.weight_bytes)
        self._write_torch_weights(folder, staged)
        checkpoint = Checkpoint.open(folder)
        return _Written(WeightsRecord(location="artifact"), checkpoint.dtype, checkpoint.weight_bytes)

    def _export(self, folder: Path, quantization: Quantization) -> _Written:
        source = replace(self.source, tokenizer=self._tokenizer())
        report = openvino_weights.export(source, folder, quantization, self.config.dtype)
        export = ExportRecord(
            seconds=round(report.seconds, 3), traced_dtype=report.traced_dtype, probe=report.probe.as_dict()
        )
        return _Written(_IN_OPENVINO, report.traced_dtype, report.weight_bytes, export)

    def _tokenizer(self) -> Any:
        """The source's, with the chat template that was given: a tokenizer model carries it in itself."""
        return with_chat_template(self.source.tokenizer, self.chat_template)

    def _write_torch_weights(self, folder: Path, staged: bool) -> None:
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

    def _record(self, folder: Path, written: _Written) -> FlavorRecord:
        source = self.source
        quantization = self._quantization_record(folder, written.dtype)
        weights, is_openvino = written.weights, written.weights.format == "openvino"
        template = self.chat_template or chat_template_of(source.tokenizer)
        return FlavorRecord(
            format_version=OPENVINO_FORMAT_VERSION if is_openvino else 1,
            task=self.task,
            weights=weights,
            quantization=quantization,
            quantization_reason=self.reason,
            dtype=written.dtype,
            export=written.export,
            parameters=self.parameters or count_parameters(folder, source.trust_remote_code),
            weight_bytes=written.weight_bytes,
            architecture=architecture_of(source.config),
            base_model=source.base_model,
            base_commit=source.repo.commit if source.repo else None,
            license=license_of(folder),
            trust_remote_code=source.trust_remote_code and not is_openvino,
            chat_template_sha256=fingerprint(template),
            prompt_template=self.prompt_template,
            generation_config=self.request_defaults,
            library_versions=library_versions(
                extra_of(weights.format, quantization, self.config.engine), quantization
            ),
        )

    def _quantization_record(self, folder: Path, dtype: str) -> QuantizationRecord | None:
        exported = self.quantize.completed(dtype) if self.quantize and self.quantize.is_openvino else None
        of_folder = self.source.openvino.quantization if self.source.openvino else None
        stored = exported or of_folder or of_checkpoint(read_config(folder))
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
    requested = wanted_quantization(quantization, config)
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
    parameters = _count_parameters(source)
    planned = plan_quantization(source, requested, config, parameters, save_pretrained=save_pretrained)
    return SavePlan(
        source=source,
        config=config.without("quantization"),
        reference=None if save_pretrained else source.reference(),
        quantize=planned.now,
        quantize_at_load=planned.at_load,
        task=choose_task(task, chat_template or chat_template_of(source.tokenizer)),
        chat_template=chat_template,
        prompt_template=prompt_template,
        request_defaults=defaults,
        parameters=parameters,
        renew_tokenizer=tokenizer is not None or chat_template is not None,
        reason=planned.reason,
    )


def _count_parameters(source: ModelSource) -> int | None:
    """Known before anything is written where there is a config.json; what cannot be built fails here."""
    if source.model is not None or source.folder is None:
        return None
    return count_parameters(source.folder, source.trust_remote_code)
