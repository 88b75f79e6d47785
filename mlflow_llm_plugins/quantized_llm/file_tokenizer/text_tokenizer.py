"""A vocabulary read from files: texts to ids, ids to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from mlflow_llm_plugins.quantized_llm.file_tokenizer.config import TokenizerConfig
from mlflow_llm_plugins.quantized_llm.file_tokenizer.encoded import Encoded

# What transformers' `clean_up_tokenization` does, in its order.
_CLEANED = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " ' ": "'",
    " n't": "n't",
    " 'm": "'m",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
}


class TextTokenizer:
    """What this package uses of transformers' fast tokenizers on texts, with the same names and results.

    Safe to use from many threads; nothing changes it once it is made.
    """

    is_fast = True

    def __init__(self, backend: Tokenizer, config: TokenizerConfig) -> None:
        """Take the parts; `load_file_tokenizer` reads them.

        Args:
            backend: With all added tokens, and without padding and truncation.
            config: Of the same folder.
        """
        self._tokenizer = backend
        self._special = {name: str(token) for name, token in config.named.items()}
        self.unk_token_id: int | None = None  # what tokens get that are no entries
        self.unk_token, self.unk_token_id = self._named("unk_token")
        self.bos_token, self.bos_token_id = self._named("bos_token")
        self.eos_token, self.eos_token_id = self._named("eos_token")
        self.pad_token, self.pad_token_id = self._named("pad_token")
        self.all_special_tokens = list(dict.fromkeys([*self._special.values(), *map(str, config.extra)]))
        self.all_special_ids: list[int] = self.convert_tokens_to_ids(self.all_special_tokens)
        self.model_max_length = config.model_max_length
        self.clean_up_tokenization_spaces = config.cleans_up_spaces
        self._may_clean_up = config.cleans_up_spaces_of_bpe or type(backend.model).__name__ != "BPE"

    # -- the vocabulary -----------------------------------------------------------------------------------

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers.Tokenizer` behind it, which must not be changed."""
        return self._tokenizer

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The `AddedToken` of each id that is matched in texts before all others, special or not."""
        added: dict[int, Any] = self._tokenizer.get_added_tokens_decoder()
        return added

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Special tokens by name; templates see them as variables."""
        return dict(self._special)

    @property
    def vocab_size(self) -> int:
        """Entries without added tokens."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    def __len__(self) -> int:
        """Entries with added tokens."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def get_vocab(self) -> dict[str, int]:
        """Ids of all entries, added tokens included."""
        vocab: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocab

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """How the vocabulary writes a token, or each of several; None for an id that it lacks."""
        if isinstance(ids, int):
            return self._tokenizer.id_to_token(ids)
        return [self._tokenizer.id_to_token(int(token_id)) for token_id in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or of each of several; that of the unknown token, or None, for one that is no entry."""
        if isinstance(tokens, str):
            token_id = self._tokenizer.token_to_id(tokens)
            return self.unk_token_id if token_id is None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    # -- texts --------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
        verbose: bool = True,
    ) -> Encoded:
        """Token ids of a text, or of each of several; control tokens in it count as such.

        Args:
            text: One or several.
            add_special_tokens: Whether start and end tokens are put around a text, if this tokenizer has any.
            return_offsets_mapping: Adds `offset_mapping`: from which to which character each token goes.
            verbose: Has no effect; transformers warns of texts that are longer than `model_max_length`.
        """
        is_batch = not isinstance(text, str)
        texts = list(text) if is_batch else [text]
        # a batch also for a single one: `encode` of tokenizers 0.23 keeps Python's lock
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        return Encoded.of(encodings, is_batch=is_batch, with_offsets=return_offsets_mapping)

    def decode(
        self,
        token_ids: int | Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of token ids.

        Args:
            token_ids: One or several.
            skip_special_tokens: Whether special tokens are left out.
            clean_up_tokenization_spaces: Whether spaces before punctuation are dropped; None: as the files say. As
                with transformers, texts of BPE are left as they are, which have no such spaces of their own.
        """
        ids = [token_ids] if isinstance(token_ids, int) else [int(token_id) for token_id in token_ids]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        wanted = clean_up_tokenization_spaces
        cleans_up = self.clean_up_tokenization_spaces if wanted is None else wanted
        return _cleaned_up(text) if cleans_up and self._may_clean_up else text

    def _named(self, name: str) -> tuple[str | None, int | None]:
        """A special token and its id, if the files name one."""
        token = self._special.get(name)
        return token, None if token is None else self.convert_tokens_to_ids(token)


def _cleaned_up(text: str) -> str:
    for spaced, cleaned in _CLEANED.items():
        text = text.replace(spaced, cleaned)
    return text
