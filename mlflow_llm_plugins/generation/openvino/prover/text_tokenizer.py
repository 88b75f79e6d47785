"""The vocabulary that openvino-genai follows a grammar by: for each token the text that it adds to an answer.

openvino-genai (2026.4.1) takes the vocabulary out of the detokenizer's IR as it is stored there. For SentencePiece
vocabularies that is "▁a" and "<0x0A>" instead of " a" and a line feed: it follows no form at all, without an error.
And special tokens have their names for a text, so that "<|user|>" in a form may be a token that no text shows. Here
both are set right, in a copy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.ir_files import DETOKENIZER_FILE, TOKENIZER_FILES

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

_BYTE = re.compile(rb"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁".encode()
_SPELLING = {*range(0x01, 0xC0), *range(0xC2, 0xF5)}  # the bytes of UTF-8, NUL left out


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A tokenizer for a pipeline that follows grammars, and nothing else."""

    tokenizer: Tokenizer
    text_ids: frozenset[int]  # tokens that have a text; all others may only end an answer


def text_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of an IR, its vocabulary set right.

    Args:
        folder: Has `TOKENIZER_FILES` and the model's config files, whose end tokens have no text here either.

    Raises:
        UnsupportedFeatureError: The files are missing, or its tokens cannot spell every text.
    """
    require_tokenizer_files(folder)
    import openvino
    import openvino_genai
    import openvino_tokenizers  # noqa: F401  # makes its operations known to openvino

    model = openvino.Core().read_model(folder / DETOKENIZER_FILE)
    texts = _texts(model, _end_token_ids(folder))
    _store(model, texts)
    with TemporaryDirectory(prefix="mlflow-llm-grammars-") as name:
        for file in TOKENIZER_FILES[:2]:
            Path(name, file).symlink_to((folder / file).resolve())
        openvino.save_model(model, Path(name, DETOKENIZER_FILE))
        tokenizer = openvino_genai.Tokenizer(name)
    return TextTokenizer(tokenizer, frozenset(i for i, text in enumerate(texts) if text))


def tokenizer_for_grammars(folder: Path) -> Tokenizer | None:
    """What a pipeline for requests is made with; None where `GrammarProver` refuses every constraint."""
    try:
        return text_tokenizer(folder).tokenizer
    except UnsupportedFeatureError:
        return None


def require_tokenizer_files(folder: Path) -> None:
    """Refuse where the tokenizer's IR is not beside the model's.

    Raises:
        UnsupportedFeatureError: Says how to make it.
    """
    if missing := [name for name in TOKENIZER_FILES if not (folder / name).is_file()]:
        raise UnsupportedFeatureError(
            f"Constrained output needs the tokenizer as an OpenVINO IR, and the model has no {missing[0]}. Log the "
            "model again from its checkpoint, or convert the tokenizer with "
            "openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True) and save both beside the model."
        )


def _texts(model: Any, end_token_ids: set[int]) -> list[bytes]:
    """What each token adds to an answer."""
    decoder = _vocabulary(model)
    begins, ends, characters = (decoder.input_value(i).get_node().get_data() for i in (1, 2, 3))
    stored = characters.tobytes()
    pieces = [stored[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    kinds = {operation.get_type_name() for operation in model.get_ops()}
    if "ByteFallback" in kinds:
        pieces = [bytes.fromhex(found[1].decode()) if (found := _BYTE.fullmatch(piece)) else piece for piece in pieces]
    if _has_constant(model, _SPACE):
        pieces = [piece.replace(_SPACE, b" ") for piece in pieces]
    for token_id in {*_skipped(decoder), *end_token_ids}:
        if 0 <= token_id < len(pieces):
            pieces[token_id] = b""
    if _SPELLING - {piece[0] for piece in pieces if len(piece) == 1}:
        raise UnsupportedFeatureError(
            "Constrained output is not supported with this tokenizer: it has no token for some bytes, so that not "
            "every text can be spelt."
        )
    return pieces


def _vocabulary(model: Any) -> Any:
    """The operation that has the tokens as its constants."""
    for operation in model.get_ops():
        if operation.get_type_name() == "VocabDecoder":
            return operation
    raise UnsupportedFeatureError(
        "Constrained output is not supported with this tokenizer: the vocabulary cannot be read from "
        "openvino_detokenizer.xml. Convert the fast tokenizer (use_sentencepiece_backend=False)."
    )


def _skipped(decoder: Any) -> Sequence[int]:
    """The special tokens, which a text does not show."""
    if decoder.get_input_size() < 5:
        skipped: list[int] = decoder.get_attributes()["skip_tokens"]
        return skipped
    return list(decoder.input_value(4).get_node().get_data().tolist())


def _has_constant(model: Any, value: bytes) -> bool:
    """Whether an operation of the decoder replaces this text."""
    return any(
        operation.get_type_name() == "RegexNormalization"
        and any(_constant(operation.input_value(i).get_node()) == value for i in range(operation.get_input_size()))
        for operation in model.get_ops()
    )


def _constant(node: Any) -> bytes | None:
    if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() != "u8":
        return None
    return bytes(node.get_data().tobytes())


def _store(model: Any, texts: list[bytes]) -> None:
    """Put the texts in the place of the tokens."""
    from openvino import opset13

    ends: NDArray[np.int64] = np.cumsum([len(text) for text in texts])
    begins = np.concatenate([[0], ends[:-1]])
    decoder = _vocabulary(model)
    for i, values in enumerate(
        (begins.astype(np.int32), ends.astype(np.int32), np.frombuffer(b"".join(texts), np.uint8))
    ):
        decoder.input(1 + i).replace_source_output(opset13.constant(values).output(0))


def _end_token_ids(folder: Path) -> set[int]:
    """The end tokens that the model's own files name."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            for section in (config, config.get("text_config") or {}):
                named = section.get("eos_token_id")
                found.update(named if isinstance(named, list) else [] if named is None else [named])
    return found
