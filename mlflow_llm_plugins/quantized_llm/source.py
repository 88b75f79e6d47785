"""What the user gave as the model, understood: a checkpoint on disk or on the Hub, or a model in memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError, InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm import hub
from mlflow_llm_plugins.quantized_llm.checkpoint import (
    Checkpoint,
    check_causal,
    config_dtype,
    has_weights,
    needs_own_code,
    read_config,
    read_generation_config,
)
from mlflow_llm_plugins.quantized_llm.hub import HubRepo
from mlflow_llm_plugins.quantized_llm.openvino_folder import OpenVINOFolder
from mlflow_llm_plugins.quantized_llm.record import WeightsFormat, WeightsRecord
from mlflow_llm_plugins.quantized_llm.tokenizer import check_tokenizer, load_tokenizer

_logger = logging.getLogger(__name__)

_ALLOWED = (
    "Give a Hub id, a checkpoint directory, a transformers model, a text-generation pipeline, or "
    '{"model": model, "tokenizer": tokenizer}.'
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model and its tokenizer before they are saved."""

    config: Mapping[str, Any]  # the model's configuration, as in config.json
    tokenizer: Any
    model: Any = None  # in memory; None: the weights are in `folder`, or in `repo` and not fetched yet
    folder: Path | None = None  # where config, licence and model card are; None for a model made in memory
    repo: HubRepo | None = None
    openvino: OpenVINOFolder | None = None  # what `folder` has instead of torch weights
    trust_remote_code: bool = False

    @property
    def base_model(self) -> str | None:
        """The Hub id or absolute path that it comes from."""
        if self.repo:
            return self.repo.repo_id
        return str(self.folder) if self.folder else None

    @property
    def dtype(self) -> str | None:
        """Type of the weights that are not quantized; None where only the weights can tell."""
        return str(self.model.dtype).removeprefix("torch.") if self.model is not None else config_dtype(self.config)

    def open_checkpoint(self) -> Checkpoint:
        """The weights on disk, fetched from the Hub where they are there.

        Raises:
            CheckpointError: They are missing, damaged or not safetensors.
        """
        assert self.folder is not None
        return hub.open_checkpoint(self.repo.repo_id, self.repo.commit) if self.repo else Checkpoint.open(self.folder)

    def stored_config(self) -> Mapping[str, Any]:
        """The configuration of what a reference would load, which may differ from that of a model in memory."""
        return self.config if self.model is None else read_config(self._referable(), self.base_model)

    def local_checkpoint(self) -> Checkpoint | None:
        """The weights that a reference would load, where they are on this machine already."""
        folder = self._referable()
        if self.openvino:
            return None
        return Checkpoint.open(folder) if not self.repo or has_weights(folder) else None

    def weights_header(self) -> tuple[str, int]:
        """Type and size in bytes of the weights that a reference would load, without fetching them."""
        if self.openvino:
            return self.openvino.dtype, self.openvino.weight_bytes
        checkpoint = self.local_checkpoint()
        if checkpoint:
            return checkpoint.dtype, checkpoint.weight_bytes
        assert self.repo is not None
        return hub.weights_header(self.repo)

    def reference(self) -> WeightsRecord:
        """Where to load the weights from when they are not saved.

        Raises:
            InvalidInputError: They are nowhere but in memory.
        """
        folder = self._referable()
        if self.model is not None:
            _logger.warning(
                "The weights in memory are not saved: %s is loaded instead, without what was changed since.",
                self.base_model,
            )
        if self.repo:
            return WeightsRecord(location="hub", source=self.repo.repo_id, commit=self.repo.commit)
        weights_format: WeightsFormat = "openvino" if self.openvino else "safetensors"
        return WeightsRecord(format=weights_format, location="path", source=str(folder))

    def _referable(self) -> Path:
        if self.folder is None:
            raise InvalidInputError(
                "save_pretrained=False needs a model that has a place to be loaded from, and this one is only in "
                f"memory (name_or_path is {self.model.name_or_path!r}). Leave save_pretrained at True."
            )
        return self.folder


def find_source(
    model: Any,
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    by_reference: bool = False,
) -> ModelSource:
    """Understand `model`; reads no weight, and of a Hub repository fetches none.

    Args:
        model: As `log_model` takes it.
        tokenizer: One to use instead of the model's own: an object, a Hub id or a directory.
        revision: Of the Hub repository.
        trust_remote_code: Whether Python code of the checkpoint may run.
        by_reference: The model will be loaded from where it comes from, so that place must be known exactly.

    Raises:
        InvalidInputError: Not one of these, or arguments that contradict one another.
        CheckpointError: A checkpoint or tokenizer that cannot be used.
        AccessDeniedError: The Hub refused.
    """
    model, tokenizer = _take_apart(model, tokenizer)
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = _named_tokenizer(os.fspath(tokenizer), trust_remote_code)
    elif tokenizer is not None:
        check_tokenizer(tokenizer)
    if isinstance(model, (str, os.PathLike)):
        return _from_name(os.fspath(model), tokenizer, revision, trust_remote_code)
    return _from_memory(model, tokenizer, revision, trust_remote_code, by_reference)


def _take_apart(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """The model and the tokenizer of a pipeline or a dictionary."""
    if isinstance(model, (str, os.PathLike)):
        return model, tokenizer
    from transformers import Pipeline

    if isinstance(model, Mapping):
        if set(model) - {"model", "tokenizer"} or "model" not in model:
            raise InvalidInputError(f"A dictionary must have the keys 'model' and 'tokenizer', got {sorted(model)}.")
        inner, its_tokenizer = model["model"], model.get("tokenizer")
    elif isinstance(model, Pipeline):
        if model.task != "text-generation":
            raise InvalidInputError(f"A pipeline's task must be 'text-generation', got {model.task!r}.")
        inner, its_tokenizer = model.model, model.tokenizer
    else:
        return model, tokenizer
    if tokenizer is not None and its_tokenizer is not None and tokenizer is not its_tokenizer:
        raise InvalidInputError("Two tokenizers given: tokenizer=, and the one beside the model. Give one of them.")
    return inner, tokenizer if tokenizer is not None else its_tokenizer


def _from_name(name: str, tokenizer: Any, revision: str | None, trust_remote_code: bool) -> ModelSource:
    path = Path(name).expanduser()
    if name and path.is_dir():
        if revision is not None:
            raise InvalidInputError(f"revision={revision!r} is for Hub ids; {name!r} is a directory. Leave it out.")
        return _from_folder(path.resolve(), None, tokenizer, trust_remote_code)
    if path.exists() or not hub.is_repo_id(name):
        raise InvalidInputError(f"model={name!r} is neither a directory that exists nor a Hub id. {_ALLOWED}")
    if trust_remote_code and not hub.COMMIT.fullmatch(revision or ""):
        raise InvalidInputError(
            f"trust_remote_code=True runs Python code of {name!r}, so it needs a pinned revision: the 40 hexadecimal "
            f"digits of a commit that you have read, got revision={revision!r}. "
            f"See https://huggingface.co/{name}/commits/main"
        )
    repo, folder = hub.download_description(name, revision, code=trust_remote_code)
    return _from_folder(folder, repo, tokenizer, trust_remote_code)


def _from_folder(folder: Path, repo: HubRepo | None, tokenizer: Any, trust_remote_code: bool) -> ModelSource:
    name = repo.repo_id if repo else str(folder)
    config = read_config(folder, name)
    read_generation_config(folder)
    if not trust_remote_code and needs_own_code(config):
        raise CheckpointError(
            f"{name} has a {config.get('model_type')!r} model that only its own Python code knows. If you have read "
            "that code, pass trust_remote_code=True, for a Hub id with a commit as revision."
        )
    if tokenizer is None:
        tokenizer = load_tokenizer(folder, name=name, trust_remote_code=trust_remote_code)
    return ModelSource(
        config,
        tokenizer,
        folder=folder,
        repo=repo,
        openvino=OpenVINOFolder.find(folder),
        trust_remote_code=trust_remote_code,
    )


def _from_memory(
    model: Any, tokenizer: Any, revision: str | None, trust_remote_code: bool, by_reference: bool
) -> ModelSource:
    _check_model(model)
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    check_causal(config, f"The {type(model).__name__} in memory")
    if not trust_remote_code and needs_own_code(config):
        raise CheckpointError(
            f"The {type(model).__name__} in memory is a {config.get('model_type')!r} model that only its own Python "
            "code knows, and that code must run again when it is loaded. Pass trust_remote_code=True."
        )
    repo, folder = _origin(model.name_or_path or "", revision, fetch=tokenizer is None or by_reference)
    if tokenizer is None:
        if folder is None:
            raise InvalidInputError(
                f"No tokenizer given, and none can be found beside the {type(model).__name__} in memory, whose "
                f"name_or_path is {model.name_or_path!r}. Give one: tokenizer=AutoTokenizer.from_pretrained(...)."
            )
        name = repo.repo_id if repo else str(folder)
        tokenizer = load_tokenizer(folder, name=name, trust_remote_code=trust_remote_code)
    return ModelSource(config, tokenizer, model, folder, repo, trust_remote_code=trust_remote_code)


def _check_model(model: Any) -> None:
    from transformers import PreTrainedModel

    if type(model).__module__.startswith("peft") or getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedFeatureError(
            f"{type(model).__name__} has a PEFT adapter. Merge it first: model = model.merge_and_unload()."
        )
    if not isinstance(model, PreTrainedModel):
        raise InvalidInputError(f"model is a {type(model).__name__}, which cannot be logged. {_ALLOWED}")


def _origin(name: str, revision: str | None, *, fetch: bool) -> tuple[HubRepo | None, Path | None]:
    """Where a model in memory was loaded from, as far as can be known; transformers keeps no commit.

    Args:
        name: Its `name_or_path`.
        revision: As the user gave it.
        fetch: Ask the Hub when the cache does not know; otherwise nothing but the cache is looked at.
    """
    if name and Path(name).is_dir():
        return None, Path(name).resolve()
    if not hub.is_repo_id(name):
        if revision is not None:
            raise InvalidInputError(f"revision={revision!r} is for Hub ids; the model's name_or_path is {name!r}.")
        return None, None
    revision = revision or hub.cached_commit(name)
    if fetch:
        return hub.download_description(name, revision)
    return hub.cached(name, revision)


def _named_tokenizer(name: str, trust_remote_code: bool) -> Any:
    if Path(name).is_dir():
        return load_tokenizer(Path(name), name=name, trust_remote_code=trust_remote_code)
    if not hub.is_repo_id(name):
        raise InvalidInputError(
            f"tokenizer={name!r} is neither a directory that exists nor a Hub id. Give one of them, or a tokenizer: "
            "tokenizer=AutoTokenizer.from_pretrained(...)."
        )
    _, folder = hub.download_description(name, None)
    return load_tokenizer(folder, name=name)
