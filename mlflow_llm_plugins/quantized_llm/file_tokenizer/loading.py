"""From a folder to a `FileTokenizer`, or the reason why there is none."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from mlflow_llm_plugins.errors import CheckpointError, MissingDependencyError

if TYPE_CHECKING:
    from mlflow_llm_plugins.quantized_llm.file_tokenizer.config import TokenizerConfig
    from mlflow_llm_plugins.quantized_llm.file_tokenizer.tokenizer import FileTokenizer

TOKENIZER_FILE = "tokenizer.json"
_OLDEST_JINJA = "3.1.6"  # templates of older ones can leave the sandbox; transformers refuses them as well


def load_file_tokenizer(folder: Path, *, name: str) -> FileTokenizer:
    """The folder's tokenizer, by the packages tokenizers and jinja2 alone.

    Args:
        folder: Where tokenizer.json and its companions are, as `save_pretrained` writes them.
        name: What messages call it: a Hub id or a path.

    Returns:
        A tokenizer that offers `response_template` and `get_response_parser` only where its files have a response
        template and transformers, whose parser is handed out, is installed. Where it is not, a warning says so.

    Raises:
        CheckpointError: There is no tokenizer.json, or one of the files cannot be read.
        MissingDependencyError: tokenizers or jinja2 is not installed, or jinja2 is too old.
    """
    _require_packages()
    from mlflow_llm_plugins.quantized_llm.file_tokenizer.added_tokens import add_declared_tokens
    from mlflow_llm_plugins.quantized_llm.file_tokenizer.config import read_config

    try:
        backend = _read_backend(folder, name)
        config = read_config(folder, backend)
        add_declared_tokens(backend, config)
        return _with_chats(backend, config, name)
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare exceptions, and JSON of the wrong shape any of Python's
        raise CheckpointError(
            f"The tokenizer of {name} cannot be read ({type(error).__name__}: {error}). Save it again: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
        ) from error


def _with_chats(backend: Any, config: TokenizerConfig, name: str) -> FileTokenizer:
    from mlflow_llm_plugins.quantized_llm.file_tokenizer.response_template import (
        ParsingFileTokenizer,
        response_parser_class,
    )
    from mlflow_llm_plugins.quantized_llm.file_tokenizer.tokenizer import FileTokenizer

    parser_class = None if config.response_template is None else response_parser_class(name)
    if parser_class is None:
        return FileTokenizer(backend, config)
    return ParsingFileTokenizer(backend, config, parser_class)


def _require_packages() -> None:
    try:
        import jinja2  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"reading a tokenizer from its files needs {error.name}: pip install 'mlflow-llm-plugins[openvino]'"
        ) from error
    if Version(installed := version("jinja2")) < Version(_OLDEST_JINJA):
        raise MissingDependencyError(
            f"chat templates need jinja2 >= {_OLDEST_JINJA}, installed is {installed}: "
            "pip install 'mlflow-llm-plugins[openvino]'"
        )


def _read_backend(folder: Path, name: str) -> Any:
    from tokenizers import Tokenizer

    file = folder / TOKENIZER_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{name} has no {TOKENIZER_FILE} (looked in {folder}). Write one with a fast tokenizer: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
        )
    return Tokenizer.from_file(str(file))
