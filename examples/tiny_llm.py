"""Train a tiny Llama on CPython's own documentation, on a CPU, in about a minute.

    python examples/tiny_llm.py OUT --seconds 60

Everything comes with Python and the installed packages: the text is what `help("while")` prints (`pydoc_data.topics`).
The result is an ordinary checkpoint of a million parameters, with a tokenizer and a chat template. It speaks in the
manner of the documentation without knowing much, which is enough to log, quantize, serve and measure.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics as TOPICS

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mlflow_llm_plugins.hardware import granted_cpus

VOCAB_SIZE = 2048
CONTEXT_LENGTH = 512
PAD, BOS, EOS, END_OF_TURN = "<|pad|>", "<|bos|>", "<|eos|>", "<|end|>"
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

HELD_OUT_EVERY = 8  # so every eighth topic, by name
ROWS, WINDOW = 4, 256  # of a batch
CHAT_ROWS = 1  # of the rows
PEAK_LEARNING_RATE = 4e-3
FINAL_SHARE_OF_RATE = 0.05
WARMUP_SHARE = 0.05
CALIBRATION_STEPS = 3


@dataclass(frozen=True, slots=True)
class TinyLLMReport:
    """What came out; perplexities are per token, on topics that were held out."""

    path: Path
    parameters: int
    steps: int  # train_tiny_llm(steps=...) with this makes the same model again
    untrained_perplexity: float
    unigram_perplexity: float  # of guessing by how often a token occurs in the training text
    trained_perplexity: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a tiny Llama on CPython's documentation.")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory for the checkpoint: new or empty")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=60.0, help="time to train, about (default: 60)")
    length.add_argument("--steps", type=int, help="train this many steps instead, which is reproducible")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    args = parser.parse_args()
    try:
        report = train_tiny_llm(args.out, seconds=args.seconds, steps=args.steps, seed=args.seed)
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))
    Console().print(_table(report))


def train_tiny_llm(
    out_dir: str | Path,
    *,
    seconds: float = 60.0,
    steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TinyLLMReport:
    """Train a tokenizer and a Llama and save both as one checkpoint.

    Args:
        out_dir: A new or empty directory.
        seconds: About how long the training loop runs; a few steps are timed to find their number.
        steps: Their number, at least 1; then `seconds` does not count and the same machine makes the same model.
        seed: Of weights and batches.
        progress: Show a progress bar on stderr.

    Raises:
        FileExistsError: `out_dir` is a file or has something in it.
        ValueError: `seconds` or `steps` is too small.
    """
    out_dir = Path(out_dir)
    _check(out_dir, seconds, steps)
    texts = training_texts()
    tokenizer = build_tokenizer(texts)
    with _all_granted_cpus():
        model = _new_model(tokenizer, seed)
        untrained = perplexity(model, tokenizer, held_out_texts())
        batches = _Batches(_text_stream(tokenizer, texts), _chat_stream(tokenizer), seed)
        steps = steps or _steps_that_fit(seconds, model, batches)
        _train(model, batches, steps, progress)
        trained = perplexity(model, tokenizer, held_out_texts())
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    return TinyLLMReport(
        path=out_dir,
        parameters=model.num_parameters(),
        steps=steps,
        untrained_perplexity=untrained,
        unigram_perplexity=unigram_perplexity(tokenizer, texts, held_out_texts()),
        trained_perplexity=trained,
    )


def documentation() -> list[str]:
    """All help topics of this Python, held-out ones included."""
    return [TOPICS[name] for name in sorted(TOPICS)]


def held_out_texts() -> list[str]:
    """The help topics that the model is not trained on."""
    return [TOPICS[name] for name in _held_out_names()]


def training_texts() -> list[str]:
    """The other topics, without the paragraphs that they share with a held-out one (topics overlap)."""
    return list(_training_topics().values())


def build_tokenizer(texts: list[str], vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; it begins every text with a BOS token.

    Args:
        texts: What the merges are learned from.
        vocab_size: Tokens, special ones and the 256 bytes included.
    """
    special = [PAD, BOS, EOS, *ROLES, END_OF_TURN]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[*ROLES, END_OF_TURN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """Per token, over windows of the context's length that do not overlap."""
    loss, count = 0.0, 0
    for text in texts:
        ids = torch.tensor(tokenizer(text, verbose=False).input_ids)
        for window in ids.split(CONTEXT_LENGTH):
            if len(window) > 1:
                loss += model(window[None], labels=window[None]).loss.item() * (len(window) - 1)
                count += len(window) - 1
    return math.exp(loss / count)


def unigram_perplexity(tokenizer: PreTrainedTokenizerFast, training_texts: list[str], texts: list[str]) -> float:
    """Per token, when each is guessed by how often it occurs in the training texts (add-one smoothed)."""
    counts = torch.bincount(_token_stream(tokenizer, training_texts), minlength=len(tokenizer)) + 1
    log_probabilities = (counts / counts.sum()).log()
    return math.exp(-log_probabilities[_token_stream(tokenizer, texts)].mean().item())


def _check(out_dir: Path, seconds: float, steps: int | None) -> None:
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir} exists and is not an empty directory: name another, or remove it first.")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be above 0 and finite, got {seconds}.")


def _held_out_names() -> list[str]:
    return sorted(TOPICS)[::HELD_OUT_EVERY]


def _training_topics() -> dict[str, str]:
    held_out = {paragraph for text in held_out_texts() for paragraph in _paragraphs(text)}
    names = sorted(set(TOPICS) - set(_held_out_names()))
    kept = {name: [p for p in _paragraphs(TOPICS[name]) if p not in held_out] for name in names}
    return {name: "\n\n".join(paragraphs) for name, paragraphs in kept.items() if paragraphs}


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in text.strip("\n").split("\n\n") if paragraph.strip()]


def _conversations() -> list[list[dict[str, str]]]:
    """A question about each training topic, and its first paragraph of prose for an answer."""
    return [
        [{"role": "user", "content": f"What is {name}?"}, {"role": "assistant", "content": answer}]
        for name, text in _training_topics().items()
        if (answer := _first_prose(text))
    ]


def _first_prose(text: str) -> str:
    _title, *paragraphs = _paragraphs(text)
    prose = (paragraph for paragraph in paragraphs if not paragraph.startswith(" "))  # neither grammar nor code
    return " ".join(next(prose, "").split())


def _token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    rows = [tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in texts]
    return torch.tensor([token for row in rows for token in row])


def _text_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    return _token_stream(tokenizer, [f"{BOS}{text}{EOS}" for text in texts])


def _chat_stream(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    return _token_stream(tokenizer, tokenizer.apply_chat_template(_conversations(), tokenize=False))


def _new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of about a million parameters; its widths are multiples of 64, a bitsandbytes 4-bit block."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        initializer_range=0.09,  # 1 / sqrt(hidden_size); the default suits models that are 20 times wider
        **special,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    _let_layers_begin_as_identity(model)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    model.generation_config = GenerationConfig(**{**special, "eos_token_id": ends})
    return model


@torch.no_grad()
def _let_layers_begin_as_identity(model: LlamaForCausalLM) -> None:
    """So a few steps get further: after 320 of them perplexity is a sixth lower than without this."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight.mul_(0.5)  # also the head: an untrained model should not be sure of anything


class _Batches:
    """Random windows of the documentation, and of the conversations for a share of the rows."""

    def __init__(self, text: Tensor, chats: Tensor, seed: int) -> None:
        self._text, self._chats = text, chats
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> Tensor:  # [ROWS, WINDOW]
        return torch.cat([self._windows(self._text, ROWS - CHAT_ROWS), self._windows(self._chats, CHAT_ROWS)])

    def _windows(self, stream: Tensor, rows: int) -> Tensor:
        starts = torch.randint(len(stream) - WINDOW + 1, (rows, 1), generator=self._generator)
        return stream[starts + torch.arange(WINDOW)]


def _steps_that_fit(seconds: float, model: LlamaForCausalLM, batches: _Batches) -> int:
    """Time a few steps on copies, so that the number of steps alone decides what is trained."""
    model, batches = copy.deepcopy((model, batches))
    _train(model, batches, 1, progress=False)  # the first step allocates
    start = time.perf_counter()
    _train(model, batches, CALIBRATION_STEPS, progress=False)
    return max(1, round(seconds * CALIBRATION_STEPS / (time.perf_counter() - start)))


def _train(model: LlamaForCausalLM, batches: _Batches, steps: int, progress: bool) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
    model.train()
    with tqdm(range(steps), desc="training", unit="step", disable=not progress) as bar:
        for _ in bar:
            batch = batches.draw()
            loss = model(batch, labels=batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    model.eval()


def _share_of_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine."""
    warmup = max(1.0, steps * WARMUP_SHARE)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - warmup)
    return FINAL_SHARE_OF_RATE + (1 - FINAL_SHARE_OF_RATE) * (1 + math.cos(math.pi * done)) / 2


@contextmanager
def _all_granted_cpus() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(granted_cpus())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _table(report: TinyLLMReport) -> Table:
    title = f"{report.path}: {report.parameters:,} parameters, {report.steps} steps"
    table = Table("model", "held-out perplexity per token", title=title)
    for name, value in (
        ("untrained", report.untrained_perplexity),
        ("unigram baseline", report.unigram_perplexity),
        ("trained", report.trained_perplexity),
    ):
        table.add_row(name, f"{value:,.1f}")
    return table


if __name__ == "__main__":
    main()
