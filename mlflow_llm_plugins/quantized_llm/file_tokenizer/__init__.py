"""The tokenizer of a folder, read from its files alone: for servers that have neither transformers nor torch.

Results are those of transformers 5.23, for all that this package asks of a fast tokenizer. Some of its classes build a
tokenizer anew from the vocabulary when they read one, and `save_pretrained` writes the outcome of that to
tokenizer.json. So here the file is taken as it stands, and reads texts as the tokenizer that was saved.
"""

from __future__ import annotations

from mlflow_llm_plugins.quantized_llm.file_tokenizer.loading import load_file_tokenizer

__all__ = ["load_file_tokenizer"]
