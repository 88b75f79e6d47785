"""The checkpoint as a GGUF file for llama.cpp, weights in 8 bits (Q8_0); by the package `gguf`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODEL_FILE = "model.gguf"
# The only rules of llama.cpp under which a word that is a token is read as one without merges that lead to it.
WHOLE_WORDS = "llama-bpe"
NO_MERGE = "Ā Ā"  # the list may not be empty, and these bytes are in no text


def write_gguf(checkpoint: Path, folder: Path) -> None:
    """Write `folder/model.gguf`.

    Args:
        checkpoint: Of a Llama whose tokenizer reads whole words, as `artifacts.save_chat_checkpoint` writes it.
        folder: Made here.
    """
    import gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / MODEL_FILE, "llama")
    _describe_model(writer, model.config)
    _describe_tokenizer(writer, tokenizer)
    for name, tensor in _tensors(model):
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        else:
            packed = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe_model(writer: Any, config: Any) -> None:
    import gguf

    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def _describe_tokenizer(writer: Any, tokenizer: Any) -> None:
    import gguf

    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    control = set(tokenizer.all_special_tokens)
    kinds = [gguf.TokenType.CONTROL if piece in control else gguf.TokenType.NORMAL for piece in pieces]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(WHOLE_WORDS)
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges([NO_MERGE])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """GGUF's name -> float32 array; a head that is tied to the embedding is left out."""
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.named_parameters():
        array = tensor.detach().float().numpy()
        if ".q_proj." in name:
            array = _interleaved(array, config.num_attention_heads)
        elif ".k_proj." in name:
            array = _interleaved(array, config.num_key_value_heads)
        yield names.get_name(name, try_suffixes=(".weight",)), array


def _interleaved(weight: Any, heads: int) -> Any:
    """Rotary halves of each head as llama.cpp rotates them: neighbours, where transformers pairs the halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
