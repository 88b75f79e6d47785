"""A folder with a causal language model in safetensors, checked without reading a weight."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.generation.openvino.ir_files import MODEL_FILES

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OPENVINO_WEIGHTS = "openvino_*.bin"  # no pickles

TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_HEADER_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `save_pretrained` writes: config.json and one or more safetensors files."""

    folder: Path
    config: Mapping[str, Any]
    weight_files: tuple[Path, ...]
    dtype: str  # of the weights that are not quantized

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Check the folder: the kind of model, and that each weight file is there and whole.

        Raises:
            CheckpointError: It is no checkpoint, holds another kind of model, only pickled weights, or a file is
                missing or cut off; names the file.
        """
        config = read_config(folder)
        files = tuple(folder / name for name in weight_names(folder))
        headers = [_read_header(file) for file in files]
        return cls(folder, config, files, config_dtype(config) or _first_float_dtype(headers))

    @property
    def weight_bytes(self) -> int:
        """Size of the weight files."""
        return sum(file.stat().st_size for file in self.weight_files)

    @property
    def architecture(self) -> str | None:
        """The model's class, for example "LlamaForCausalLM"."""
        return architecture_of(self.config)


def read_config(folder: Path, name: str | None = None) -> dict[str, Any]:
    """The folder's config.json, of a causal language model.

    Args:
        folder: The checkpoint.
        name: What messages call it; None is the folder's path.

    Raises:
        CheckpointError: There is none, it is damaged, or the model is no causal language model.
    """
    name = name or str(folder)
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{name} is not a checkpoint: it has no {CONFIG_FILE}{_describe_content(folder)}. Give a directory as "
            "`model.save_pretrained(directory)` writes it, or the Hub id of one."
        )
    config = _read_table(file)
    _check_fields(config, file)
    check_causal(config, name)
    return config


def read_generation_config(folder: Path) -> dict[str, Any]:
    """The folder's generation_config.json; empty where it has none.

    Raises:
        CheckpointError: It is damaged.
    """
    file = folder / GENERATION_CONFIG_FILE
    return _read_table(file) if file.is_file() else {}


def check_causal(config: Mapping[str, Any], name: str) -> None:
    """Refuse every kind of model that cannot continue a text.

    Args:
        config: The model's configuration, as in config.json.
        name: What the message calls the model.

    Raises:
        CheckpointError: With the kind of model it is.
    """
    architecture = architecture_of(config)
    model_type = config.get("model_type")
    kind = f"a {architecture or model_type!r} model" if architecture or model_type else "of an unknown kind"
    if config.get("is_encoder_decoder"):
        raise CheckpointError(f"{name} is {kind}, an encoder-decoder. {_NEEDS_CAUSAL}")
    if "AutoModelForCausalLM" in (config.get("auto_map") or {}):
        return  # its own code; whether that may run is asked elsewhere
    families = _families()
    is_causal = architecture in families.causal_classes if architecture else model_type in families.causal_types
    if not is_causal or (model_type in families.encoder_types and not config.get("is_decoder")):
        raise CheckpointError(f"{name} is {kind}, not a causal language model. {_NEEDS_CAUSAL}")


def needs_own_code(config: Mapping[str, Any]) -> bool:
    """Whether transformers does not know the model, and Python files beside it do."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return (
        "AutoModelForCausalLM" in (config.get("auto_map") or {})
        and config.get("model_type") not in CONFIG_MAPPING_NAMES
    )


def has_weights(folder: Path) -> bool:
    """Whether all safetensors files are in the folder; of a repository in the cache they may be missing."""
    if (folder / WEIGHTS_FILE).is_file():
        return True
    return (folder / INDEX_FILE).is_file() and all((folder / name).is_file() for name in weight_names(folder))


def weight_names(folder: Path) -> list[str]:
    """Names of the safetensors files that transformers would load from the folder.

    Raises:
        CheckpointError: There are none, told with the pickled ones or a part of an OpenVINO model; or the index is
            damaged.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    if (folder / INDEX_FILE).is_file():
        return _indexed_names(folder / INDEX_FILE)
    _refuse_half_openvino(folder)
    if pickled := _pickled_names(folder):
        raise CheckpointError(
            f"{folder} has its weights only as pickles ({', '.join(pickled)}), which can run code when they are read. "
            "Only safetensors are read: load the model where you trust it and call "
            "`model.save_pretrained(directory)`, which writes safetensors."
        )
    raise CheckpointError(
        f"{folder} has no weights: neither {WEIGHTS_FILE} nor {INDEX_FILE}{_describe_content(folder)}. "
        "`model.save_pretrained(directory)` writes them."
    )


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """The class that a configuration names first."""
    return next(iter(config.get("architectures") or []), None)


def config_dtype(config: Mapping[str, Any]) -> str | None:
    """The type of the weights that a configuration names, for example "bfloat16"."""
    for section in (config, config.get("text_config") or {}):
        found = section.get("dtype") or section.get("torch_dtype")
        if found:
            return str(found).removeprefix("torch.")
    return None


def _read_header(file: Path) -> dict[str, Any]:
    """The table of tensors at the head of a safetensors file, which must be whole.

    Raises:
        CheckpointError: The file is missing, cut off or something else.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing, but {INDEX_FILE} beside it names it. Copy or download it again.")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(_HEADER_LENGTH.size)
        length = _HEADER_LENGTH.unpack(start)[0] if len(start) == _HEADER_LENGTH.size else size
        if length > min(_MAX_HEADER_BYTES, size):
            raise CheckpointError(_not_safetensors(file, start))
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            data = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # no JSON, or no table of tensors
            raise CheckpointError(_not_safetensors(file, start)) from error
    expected = _HEADER_LENGTH.size + length + data
    if size != expected:
        raise CheckpointError(
            f"{file} is damaged: it has {size:,} bytes, its header promises {expected:,}. Copy or download it again."
        )
    return header


def _not_safetensors(file: Path, start: bytes) -> str:
    why = (
        "a git-LFS pointer, not the file itself"
        if start.startswith(b"version ")
        else "no safetensors file, or cut off"
    )
    return f"{file} is damaged: it is {why}. Copy or download it again."


def _first_float_dtype(headers: list[dict[str, Any]]) -> str:
    """What transformers takes too where config.json names no type."""
    dtypes = (TORCH_DTYPES.get(tensor.get("dtype")) for header in headers for tensor in header.values())
    return next((dtype for dtype in dtypes if dtype), "float32")


@dataclass(frozen=True, slots=True)
class _Families:
    causal_types: frozenset[str]
    causal_classes: frozenset[str]
    encoder_types: frozenset[str]  # encoders unless their configuration has is_decoder


def _families() -> _Families:
    from transformers.models.auto import modeling_auto

    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return _Families(
        causal_types=frozenset(causal),
        causal_classes=frozenset(causal.values()),
        encoder_types=frozenset(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    )


def _describe_content(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return " but is a PEFT adapter; merge it into its base model first, with `merge_and_unload()`"
    if ggufs := sorted(file.name for file in folder.glob("*.gguf")):
        return f" (GGUF files such as {ggufs[0]} are not read)"
    return ""


def _check_fields(config: Mapping[str, Any], file: Path) -> None:
    """Refuse types that no configuration has, among the fields that are read here."""
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise CheckpointError(
            f'{file} has architectures={architectures!r}; it must be a list, as ["LlamaForCausalLM"].'
        )
    for field in ("quantization_config", "text_config", "auto_map"):
        if not isinstance(config.get(field) or {}, dict):
            raise CheckpointError(f"{file} has {field}={config[field]!r}; it must be an object.")


def _refuse_half_openvino(folder: Path) -> None:
    there = [name for name in MODEL_FILES if (folder / name).is_file()]
    missing = [name for name in MODEL_FILES if name not in there]
    if there and missing:
        raise CheckpointError(
            f"{folder} has {there[0]} without {missing[0]}: an OpenVINO model is both, side by side. Copy or download "
            "the missing file, too, or export the model again."
        )


def _pickled_names(folder: Path) -> list[str]:
    files = (file for pattern in PICKLED_PATTERNS for file in folder.glob(pattern))
    return sorted(file.name for file in files if not file.match(_OPENVINO_WEIGHTS))


def _indexed_names(index: Path) -> list[str]:
    names = _read_table(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index} is damaged: it has no weight_map from weights to files. {_COPY_AGAIN}")
    for name in names.values():
        if Path(name).name != name or name == "..":
            raise CheckpointError(f"{index} is damaged: {name!r} is no file beside it. {_COPY_AGAIN}")
    return sorted(set(names.values()))


def _read_table(file: Path) -> dict[str, Any]:
    content = _read_json(file)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} is damaged: it must be a JSON object, got {json.dumps(content)[:40]}. {_COPY_AGAIN}"
        )
    return content


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}. Copy or download it again.") from error


_COPY_AGAIN = "Copy or download it again."
_NEEDS_CAUSAL = (
    "This flavor takes models that continue a text, such as LlamaForCausalLM, Qwen3ForCausalLM or GPT2LMHeadModel."
)
