"""A form that would harm the pipeline is refused in words, in time, whatever becomes of the process that tries it."""

from __future__ import annotations

import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mlflow_llm_plugins.errors import (
    EngineUnavailableError,
    InvalidInputError,
    LLMError,
    QueueFullError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.generation import Constraint
from mlflow_llm_plugins.generation.openvino.child_process import ChildProcess
from mlflow_llm_plugins.generation.openvino.prover import GrammarProver, proving
from tests.generation.openvino.grammar_pipeline import GrammarPipeline, save_tokenizer_ir
from tests.models import EOS_ID, FIRST_BYTE_ID, VOCAB_SIZE, byte_tokenizer

ENDS = frozenset({EOS_ID})
HARD = Constraint("regex", "((ab|a{999}){999}){999}x")  # takes a quarter of a minute, and gigabytes
PROVER_THREADS = ("the prover of grammars-keeper", "the prover of grammars-sender")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tokenizer_ir(byte_tokenizer(), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def open_prover(folder):
    opened, before = [], children()

    def open_one(**options):
        opened.append(GrammarProver(folder, VOCAB_SIZE, **options))
        return opened[-1]

    threads = set(threading.enumerate())
    yield open_one
    for prover in opened:
        prover.close()
    assert children() == before
    assert [thread for thread in set(threading.enumerate()) - threads if thread.name in PROVER_THREADS] == []


@pytest.fixture(scope="module")
def prover(folder):
    opened = GrammarProver(folder, VOCAB_SIZE)
    yield opened
    opened.close()


def children():
    """Process ids of the children of this process, dead ones that nobody waited for among them."""
    return {child.pid for child in psutil.Process().children()}


def new_form(seed=None):
    return Constraint("choice", (f"choice {random.Random(seed).random()}",))


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("choice", ("yes", "no", "später\n")),
        Constraint("choice", tuple(f"product {i}" for i in range(1000))),
        Constraint("regex", r"\w{2,9}@[a-z]+\.(com|org)"),
        Constraint("json_schema", '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'),
        Constraint("json_schema", "true"),
    ],
    ids=lambda constraint: f"{constraint.kind}-{len(constraint.value)}",
)
def test_a_form_that_can_be_kept_passes_again_and_again(prover, constraint):
    for _ in range(3):
        assert prover.matcher(constraint, ENDS) is None


@pytest.mark.parametrize(
    ("kind", "value", "error", "complaint"),
    [
        ("regex", "a(", UnsupportedFeatureError, "The regex cannot be honoured: missing ), unterminated subpattern"),
        ("regex", "()", InvalidInputError, "The regex cannot be honoured: only an empty answer has this form."),
        ("json_schema", "{nope", InvalidInputError, "The JSON schema is no JSON text: Expecting property name"),
        ("json_schema", '{"not":{}}', UnsupportedFeatureError, "#/not: this keyword is not supported by the engine"),
        ("choice", ("a\0",), UnsupportedFeatureError, "has a NUL character, which is not supported by the engine"),
        ("lark", 'start: "a"', UnsupportedFeatureError, "The Lark grammar cannot be honoured: the engine 'openvino' "),
    ],
)
def test_a_form_that_cannot_be_kept_is_refused_and_good_ones_pass_after_it(prover, kind, value, error, complaint):
    with pytest.raises(error) as refusal:
        prover.matcher(Constraint(kind, value), ENDS)
    assert complaint in str(refusal.value)
    prover.matcher(new_form(), ENDS)


class TestEnds:
    def test_a_form_without_an_end_token_is_refused(self, prover):
        with pytest.raises(
            UnsupportedFeatureError, match=r"^A constrained answer needs an end token .* Leave eos_token"
        ):
            prover.matcher(Constraint("regex", "a"), frozenset())

    def test_an_end_token_that_is_part_of_texts_is_refused(self, prover):
        letter = FIRST_BYTE_ID + 64
        with pytest.raises(
            UnsupportedFeatureError, match=rf"^A constrained answer cannot end with the token {letter}, "
        ):
            prover.matcher(Constraint("regex", "a"), frozenset({EOS_ID, letter}))
        prover.matcher(Constraint("regex", "a"), frozenset({EOS_ID, 6, VOCAB_SIZE - 1}))

    def test_an_end_token_of_the_model_need_not_be_a_special_one(self, folder, tmp_path):
        letter = FIRST_BYTE_ID + 64
        copy = shutil.copytree(folder, tmp_path / "model")
        (copy / "generation_config.json").write_text(f'{{"eos_token_id": [{letter}, 1]}}', encoding="utf-8")
        opened = GrammarProver(copy, VOCAB_SIZE)
        try:
            with pytest.raises(UnsupportedFeatureError, match=r"it has no token for some bytes"):
                opened.matcher(Constraint("regex", "b"), frozenset({letter}))  # a byte, which texts need
        finally:
            opened.close()


@pytest.mark.parametrize("file", ["openvino_tokenizer.xml", "openvino_detokenizer.bin"])
def test_a_model_without_the_ir_of_its_tokenizer_is_told_what_to_do(folder, tmp_path, file):
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / file).unlink()
    with pytest.raises(UnsupportedFeatureError) as refusal:
        GrammarProver(copy, VOCAB_SIZE).matcher(Constraint("regex", "a"), ENDS)
    assert f"the model has no {file}. Log the model again" in str(refusal.value)
    assert "openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)" in str(refusal.value)


def test_a_form_that_takes_for_ever_is_stopped_in_time_and_the_next_one_passes(open_prover):
    prover = open_prover(timeout_s=1.0)
    prover.matcher(new_form(), ENDS)
    for longest in (8, 0.5):  # the second time it is known
        begun = time.monotonic()
        with pytest.raises(UnsupportedFeatureError) as refusal:
            prover.matcher(HARD, ENDS)
        assert time.monotonic() - begun < longest
        assert str(refusal.value) == (
            "The regex cannot be honoured: it takes longer than 1 s to prepare; lower its maxLength, "
            "maxItems or {m,n}, or leave them and the bounds of numbers out."
        )
    prover.matcher(new_form(), ENDS)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_the_process_that_was_killed_is_started_anew(open_prover):
    prover, others = open_prover(), children()
    prover.matcher(new_form(), ENDS)
    (first,) = children() - others
    os.kill(first, signal.SIGKILL)
    with suppress(EngineUnavailableError):  # where it was not quite dead when it was asked
        prover.matcher(new_form(), ENDS)
    prover.matcher(new_form(), ENDS)
    (second,) = children() - others
    assert second != first


def test_a_process_that_is_killed_during_a_proof_ends_this_constraint_alone(open_prover):
    prover, refusals, others = open_prover(timeout_s=10.0), [], children()
    prover.matcher(new_form(), ENDS)

    def ask():
        with pytest.raises(EngineUnavailableError) as refusal:
            prover.matcher(HARD, ENDS)
        refusals.append(str(refusal.value))

    thread = threading.Thread(target=ask)
    thread.start()
    busy_for(0.5)
    (child,) = children() - others
    os.kill(child, signal.SIGKILL)
    thread.join(timeout=30)
    assert refusals == [
        "The constraint was not prepared, because the process for that has gone: it was ended by signal 9 (SIGKILL)."
    ]
    prover.matcher(new_form(), ENDS)


def busy_for(seconds):
    """Long enough for the other thread to have begun; nothing tells from outside that it has."""
    threading.Event().wait(seconds)


def test_a_known_form_passes_while_another_thread_waits_for_a_proof(open_prover):
    prover = open_prover(timeout_s=4.0)
    known = new_form()
    prover.matcher(known, ENDS)

    def ask():
        with pytest.raises(UnsupportedFeatureError):
            prover.matcher(HARD, ENDS)

    thread = threading.Thread(target=ask)
    thread.start()
    busy_for(0.3)
    begun = time.monotonic()
    for _ in range(100):
        prover.matcher(known, ENDS)
    assert time.monotonic() - begun < 1
    assert thread.is_alive()
    thread.join(timeout=30)


def ask_at_once(prover, constraints):
    """What became of each, and after how many seconds, in the order in which they came back."""
    barrier, ends, begun = threading.Barrier(len(constraints)), queue.SimpleQueue(), time.monotonic()

    def ask(constraint):
        barrier.wait(timeout=60)
        try:
            ends.put((prover.matcher(constraint, ENDS), time.monotonic() - begun))
        except LLMError as error:
            ends.put((error, time.monotonic() - begun))

    threads = [threading.Thread(target=ask, args=(constraint,)) for constraint in constraints]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return [ends.get(timeout=1) for _ in constraints]


def test_many_threads_may_ask_for_the_first_forms_at_once_and_share_their_proofs(open_prover):
    prover, others = open_prover(timeout_s=20.0), children()
    constraints = [new_form(number % 3) for number in range(24)]
    assert [end for end, _ in ask_at_once(prover, constraints)] == [None] * 24
    assert len(children() - others) == 1


def test_all_who_ask_for_a_form_that_is_refused_get_its_refusal(open_prover):
    prover = open_prover()
    ends = ask_at_once(prover, [HARD] * 6)
    assert {str(error) for error, _ in ends} == {str(ends[0][0])}
    assert all(isinstance(error, UnsupportedFeatureError) for error, _ in ends)


def test_three_forms_may_be_prepared_and_all_others_are_told_to_try_again_at_once(open_prover):
    prover = open_prover(timeout_s=1.0)
    prover.matcher(new_form(), ENDS)
    hard = [Constraint("regex", f"{HARD.value}{number}") for number in range(8)]
    ends = ask_at_once(prover, hard)
    for error, seconds in ends[:5]:
        assert isinstance(error, QueueFullError)
        assert str(error) == "3 new forms are being prepared; try again."
        assert seconds < 1
    assert [type(error) for error, _ in ends[5:] if "takes longer than 1 s" in str(error)] != []
    assert ends[-1][1] < 10
    prover.matcher(new_form(), ENDS)  # nothing is left of the crowd


def test_closing_ends_a_proof_that_is_running(open_prover):
    prover, refusals = open_prover(timeout_s=10.0), []
    prover.matcher(new_form(), ENDS)

    def ask():
        with pytest.raises(EngineUnavailableError) as refusal:
            prover.matcher(HARD, ENDS)
        refusals.append(str(refusal.value))

    thread = threading.Thread(target=ask)
    thread.start()
    busy_for(0.5)
    begun = time.monotonic()
    prover.close()
    thread.join(timeout=30)
    assert time.monotonic() - begun < 3
    assert refusals == ["The engine is closed."]
    with pytest.raises(EngineUnavailableError, match=r"^The engine is closed\.$"):
        prover.matcher(new_form(), ENDS)
    prover.close()


def test_what_the_library_refuses_is_told_in_one_line_and_ends_the_process(folder):
    child = ChildProcess("mlflow_llm_plugins.generation.openvino.prover.proving:main", (str(folder), VOCAB_SIZE), "it")
    child.start()
    try:
        assert isinstance(child.receive(60), proving.Ready)
        child.send(("root ::= foo", EOS_ID))
        message = child.receive(30)
        assert isinstance(message, proving.Refused)
        assert message.reason == 'EBNF parser error at line 1, column 10: Rule "foo" is not defined'
        assert child.wait(30)
    finally:
        child.close(10)


WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "llguidance", "tokenizers", "mlflow"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from mlflow_llm_plugins.generation.openvino.prover import GrammarProver, proving
from mlflow_llm_plugins.generation.requests import Constraint
assert "openvino" not in sys.modules
prover = GrammarProver(Path(sys.argv[1]), int(sys.argv[2]))
prover.matcher(Constraint("regex", "a+"), frozenset({1}))
assert "openvino" not in sys.modules  # only its process has it
class Told:
    told = []
    def send(self, message): self.told.append(message)
    def recv(self): raise EOFError
try:
    proving.main(Told(), (sys.argv[1], int(sys.argv[2])))
except EOFError:
    print(type(Told.told[0]).__name__)
"""


def test_neither_side_needs_torch_or_transformers(folder):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(folder), str(VOCAB_SIZE)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Ready"


def sentencepiece_tokenizer(bytes_known=range(256)):
    """As in Llama 2: "▁" for a space, and bytes for what has no token."""
    bytes_ = [f"<0x{byte:02X}>" for byte in bytes_known]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *"▁abcé<", "ab", "▁a", "▁ab", "abc", "▁▁", "<user>"]
    merges = [("a", "b"), ("▁", "a"), ("▁", "ab"), ("ab", "c"), ("▁", "▁")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<user>"],
    )


def test_answers_of_a_sentencepiece_vocabulary_have_their_form(tmp_path):
    tokenizer = sentencepiece_tokenizer()
    pipeline = GrammarPipeline(tokenizer, tmp_path, len(tokenizer))
    choices = ("ab c", "  a\n", "é你好", "<0x41>", "A", "<user>", "▁a")
    assert set(pipeline.answers(Constraint("choice", choices), tokenizer.eos_token_id, range(80))) <= set(choices)


def test_a_vocabulary_that_cannot_spell_every_text_is_refused(tmp_path):
    tokenizer = sentencepiece_tokenizer(range(128))
    prover = GrammarProver(save_tokenizer_ir(tokenizer, tmp_path), len(tokenizer))
    try:
        for _ in range(2):
            with pytest.raises(
                UnsupportedFeatureError, match=r"with this tokenizer: it has no token for some bytes, so"
            ):
                prover.matcher(Constraint("regex", "a"), frozenset({tokenizer.eos_token_id}))
    finally:
        prover.close()
