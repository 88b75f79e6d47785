"""What every engine does with requests: admission, defaults, endings, isolation. All engines, one set of tests."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress

import pytest
import torch

from mlflow_llm_plugins.errors import (
    EngineUnavailableError,
    GenerationError,
    HardwareError,
    InvalidInputError,
    PromptTooLongError,
    QueueFullError,
    RequestCancelledError,
    RequestTimeoutError,
)
from mlflow_llm_plugins.generation import Constraint, EngineSettings, GenerationRequest, open_engine
from mlflow_llm_plugins.generation.engines import engine_row
from tests.generation.conftest import SMALL, plain_greedy, plain_logprobs, random_prompts
from tests.models import MAX_LENGTH, byte_tokenizer, random_model

ENGINES = ["transformers", "generate", "openvino"]
PAGED = ["transformers", "openvino"]
PROMPT = random_prompts(9)[0]
UNREADABLE = Constraint("regex", "(unclosed")


@pytest.fixture(params=ENGINES)
def engine_name(request):
    return request.param


@pytest.fixture
def engine(open_model, engine_name):
    return open_model("llama", engine_name)[1]


def generate(engine, prompt=PROMPT, **options):
    return engine.submit(GenerationRequest(prompt, **{"eos_token_ids": (), "max_new_tokens": 8, **options})).result()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "The prompt is empty: it needs at least one token."),
        ([5, -1], "Token id -1 is outside the model's vocabulary of 320: ids go from 0 to 319."),
        ([320], "Token id 320 is outside the model's vocabulary of 320: ids go from 0 to 319."),
        (
            [9] * MAX_LENGTH,
            f"The prompt has {MAX_LENGTH} tokens, but prompt and answer together may have {MAX_LENGTH} "
            "(the context length of the engine). Shorten the prompt.",
        ),
    ],
)
def test_a_prompt_that_would_harm_the_batch_is_refused_and_the_engine_lives(engine, prompt, message):
    with pytest.raises(InvalidInputError) as error:
        engine.submit(GenerationRequest(prompt))
    assert str(error.value) == message
    assert generate(engine).completion_tokens == 8


@pytest.mark.parametrize("token_id", [-1, 320, 321, 10**9, 2**70])
@pytest.mark.parametrize("field", ["eos_token_ids", "stop_token_ids"])
@pytest.mark.parametrize(
    "options",
    [{}, {"min_new_tokens": 2}, {"constraint": Constraint("regex", "[a-z]{3}")}],
    ids=["free", "of some length", "constrained"],
)
def test_an_end_token_outside_the_vocabulary_is_refused_and_the_engine_lives(engine, field, token_id, options):
    with pytest.raises(InvalidInputError) as error:
        engine.submit(GenerationRequest(PROMPT, max_new_tokens=4, **{field: (9, token_id)}, **options))
    assert str(error.value) == (
        f"{field} names token id {token_id}, which is outside the model's vocabulary of 320: ids go from 0 to 319."
    )
    assert generate(engine, eos_token_ids=(319,), min_new_tokens=3).completion_tokens >= 3


def test_more_new_tokens_than_the_context_leaves_are_refused_with_the_numbers(engine):
    with pytest.raises(PromptTooLongError) as error:
        generate(engine, max_new_tokens=MAX_LENGTH)
    assert str(error.value) == (
        f"The prompt has 9 tokens and {MAX_LENGTH} new ones are asked for, together more than {MAX_LENGTH} "
        f"(the context length of the engine). Ask for at most {MAX_LENGTH - 9} new tokens."
    )


def test_the_longest_request_that_fits_is_answered(engine):
    assert generate(engine, max_new_tokens=MAX_LENGTH - 9).completion_tokens == MAX_LENGTH - 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be from 0 (greedy) to 100, got -0.1."),
        ({"temperature": float("nan")}, "temperature must be from 0 (greedy) to 100, got nan."),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0."),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5."),
        ({"top_k": -1}, "top_k must be at least 1, or 0 to keep all tokens, got -1."),
        ({"min_p": 2.0}, "min_p must be from 0 to 1, got 2.0."),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0."),
        ({"timeout_s": 0.0}, "timeout_s must be above 0, got 0.0."),
        ({"stop": ("",)}, "stop must be strings that are not empty, got ''."),
    ],
)
def test_values_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(InvalidInputError) as error:
        GenerationRequest(PROMPT, **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5.0}, "top_k must be a whole number, got 5.0."),
        ({"seed": "1"}, "seed must be a whole number, got '1'."),
        ({"temperature": True}, "temperature must be a number, got True."),
        ({"max_new_tokens": 8.5}, "max_new_tokens must be a whole number, got 8.5."),
        ({"stop": "END"}, "stop must be strings that are not empty, got 'END'."),
        ({"stop": (5,)}, "stop must be strings that are not empty, got (5,)."),
        ({"eos_token_ids": (None,)}, "eos_token_ids must be a tuple of token ids, got (None,)."),
        ({"prompt_ids": "12"}, "prompt_ids must be token ids, not text, got '12'."),
    ],
)
def test_values_of_another_type_are_refused_by_name(options, message):
    with pytest.raises(InvalidInputError) as error:
        GenerationRequest(**{"prompt_ids": PROMPT, **options})
    assert str(error.value) == message


def test_prompts_of_numbers_that_are_no_ids_are_refused(engine):
    with pytest.raises(InvalidInputError, match=r"A prompt is a sequence of token ids, whole numbers: "):
        engine.submit(GenerationRequest([9.7, 10.2]))
    assert engine.stats().open_requests == 0


@pytest.mark.parametrize("limits", [{"max_queue_size": 1}, {"request_timeout_s": 0.001}, {"max_context_length": 8}])
def test_small_limits_for_callers_do_not_change_the_engine(limits):
    engine = open_engine(random_model("llama"), byte_tokenizer(), SMALL.model_copy(update=limits))
    assert engine.stats().engine == "transformers"
    engine.close()


@pytest.mark.parametrize("ending", ["finished", "cancelled", "out of time"])
def test_every_iteration_of_a_stream_ends(engine, ending):
    timeout = 0.05 if ending == "out of time" else 60
    stream = engine.submit(GenerationRequest(PROMPT, max_new_tokens=240, eos_token_ids=(), timeout_s=timeout))
    if ending == "cancelled":
        stream.cancel()
    errors = []

    def iterate():
        try:
            list(stream)
        except (RequestCancelledError, RequestTimeoutError) as error:
            errors.append(error)

    threads = [threading.Thread(target=iterate, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    iterate()
    assert len(errors) == (0 if ending == "finished" else 3)


def test_a_short_prompt_with_a_long_answer_does_not_push_its_group_over_the_context(open_model):
    _, engine = open_model("gptj", "generate")
    short, long = random_prompts(5, 250)
    first = engine.submit(GenerationRequest(short, max_new_tokens=5, eos_token_ids=()))
    streams = [
        engine.submit(GenerationRequest(prompt, max_new_tokens=limit, eos_token_ids=()))
        for prompt, limit in [(long, 6), (short, 200)]
    ]
    assert [len(stream.result().token_ids) for stream in [first, *streams]] == [5, 6, 200]


def test_the_pages_of_a_request_with_nan_do_not_poison_later_prompts():
    model = random_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[300] = torch.nan
    engine = open_engine(model, byte_tokenizer(), SMALL)
    prompt = random_prompts(100)[0]
    try:
        streams = [engine.submit(GenerationRequest(ids, max_new_tokens=8)) for ids in (prompt, [9, 300, 11])]
        for stream in streams:  # the first shares a step with the second, and its fate in packed attention
            with suppress(GenerationError):
                stream.result()
        later = generate(engine, prompt=prompt)
        assert list(later.token_ids) == plain_greedy(random_model("llama"), prompt, 8)
    finally:
        engine.close()


@pytest.mark.parametrize("arguments", [("score", "abc"), ("choose", "abc", ["x"]), ("choose", ["abc"], "yes")])
def test_a_bare_string_is_not_taken_for_a_list_of_characters(open_model, arguments):
    _, engine = open_model("llama")
    method, *values = arguments
    with pytest.raises(InvalidInputError, match=rf"{method}\(\) takes a list of \w+, got the string '\w+'"):
        getattr(engine, method)(*values)


def test_a_model_in_training_mode_answers_as_in_evaluation():
    model = random_model("gpt2").train()
    engine = open_engine(model, byte_tokenizer(), SMALL)
    assert engine.stats().engine == "transformers"
    assert list(generate(engine).token_ids) == plain_greedy(random_model("gpt2"), PROMPT, 8)
    engine.close()


@pytest.mark.parametrize("tokenizer", [None, object()])
def test_a_tokenizer_that_cannot_stream_is_refused(loadable, tokenizer, engine_name):
    with pytest.raises(InvalidInputError, match=r"The engine needs a fast tokenizer \(a tokenizer.json file\), got "):
        open_engine(loadable("llama", engine_name), tokenizer, SMALL, engine_name)


@pytest.mark.parametrize("engine_name", PAGED)
def test_more_pages_than_memory_are_refused_with_the_numbers(loadable, engine_name):
    settings = SMALL.model_copy(update={"num_blocks": 10**9})
    with pytest.raises(HardwareError, match=r"num_blocks=1000000000 needs \d+ MiB, and \d+ MiB are free\. Ask for at"):
        open_engine(loadable("llama", engine_name), byte_tokenizer(), settings, engine_name)


def test_a_request_without_a_limit_gets_the_default_cut_to_the_context(open_model, engine_name):
    _, engine = open_model("llama", engine_name, SMALL.model_copy(update={"max_new_tokens": 240}))
    assert generate(engine, max_new_tokens=None).completion_tokens == 240
    assert generate(engine, prompt=[9] * 100, max_new_tokens=None).completion_tokens == MAX_LENGTH - 100


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"default_new_tokens": 12}, 12),
        ({"default_new_tokens": 10**6}, MAX_LENGTH - 100),
        ({"default_new_tokens": 12, "new_tokens_limit": 7}, 7),
        ({"default_new_tokens": 12, "max_new_tokens": 5}, 5),
    ],
)
def test_a_request_may_bring_a_default_that_is_cut_as_the_engine_s_own(engine, options, tokens):
    assert generate(engine, prompt=[9] * 100, **{"max_new_tokens": None, **options}).completion_tokens == tokens


def test_an_end_token_ends_the_answer_with_reason_stop_and_is_counted(engine):
    whole = generate(engine)
    end = whole.token_ids[4]
    cut = generate(engine, eos_token_ids=(end,))
    assert cut.finish_reason == "stop"
    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(end) + 1]
    assert whole.finish_reason == "length"


def test_a_stop_string_ends_the_answer_before_it_and_its_end_is_never_streamed(engine):
    tokenizer = byte_tokenizer()
    prompt = tokenizer("abc").input_ids
    whole = generate(engine, prompt, max_new_tokens=60).text
    stop = whole[20:23]
    stream = engine.submit(GenerationRequest(prompt, max_new_tokens=60, eos_token_ids=(), stop=(stop,)))
    streamed = "".join(event.text for event in stream)
    output = stream.result()
    assert output.finish_reason == "stop"
    assert output.text == streamed == whole[: whole.index(stop)]
    assert output.completion_tokens < 60


@pytest.mark.parametrize("top_logprobs", [None, 0, 3])
def test_streamed_events_are_the_result(engine, engine_name, top_logprobs):
    if top_logprobs and "top_logprobs" in engine_row(engine_name).limits.refused:
        pytest.skip("this engine refuses it")
    request = GenerationRequest(PROMPT, max_new_tokens=30, eos_token_ids=(), top_logprobs=top_logprobs)
    stream = engine.submit(request)
    events = list(stream)
    output = stream.result()
    assert tuple(event.token_id for event in events) == output.token_ids
    if top_logprobs is None:
        assert {event.logprob for event in events} == {None}
        assert output.logprobs == output.top_logprobs == ()
    else:
        assert len(output.logprobs) == 30
        assert tuple(event.logprob for event in events) == output.logprobs
        assert {len(event.top_logprobs) for event in events} == {top_logprobs}
    assert "".join(event.text for event in events) == output.text
    assert output.text == byte_tokenizer().decode(output.token_ids, skip_special_tokens=True)
    assert (output.prompt_tokens, output.completion_tokens) == (9, 30)


def test_cancelling_frees_the_slot_and_the_others_go_on(engine):
    streams = [engine.submit(GenerationRequest(PROMPT, max_new_tokens=200, eos_token_ids=())) for _ in range(3)]
    next(iter(streams[0]))
    streams[0].cancel()
    with pytest.raises(RequestCancelledError, match=r"The request was cancelled\."):
        streams[0].result()
    assert streams[1].result().token_ids == streams[2].result().token_ids
    assert engine.stats().open_requests == 0


def test_a_request_out_of_time_says_how_far_it_came_and_frees_its_slot(engine):
    with pytest.raises(RequestTimeoutError, match=r"did not finish within 0\.01 s \(\d+ of at most 240 tokens"):
        generate(engine, max_new_tokens=240, timeout_s=0.01)
    assert engine.stats().open_requests == 0
    assert generate(engine).completion_tokens == 8


def test_a_full_queue_refuses_the_next_request_and_takes_one_again_later(open_model, engine_name):
    _, engine = open_model("llama", engine_name, SMALL.model_copy(update={"max_queue_size": 2}))
    streams = [engine.submit(GenerationRequest(PROMPT, max_new_tokens=200, eos_token_ids=())) for _ in range(2)]
    with pytest.raises(QueueFullError) as error:
        engine.submit(GenerationRequest(PROMPT))
    assert str(error.value) == ("2 requests are open, as many as max_queue_size=2 allows. Try again later.")
    with pytest.raises(QueueFullError):  # no time is spent on reading what cannot be taken
        engine.submit(GenerationRequest(PROMPT, constraint=UNREADABLE))
    for stream in streams:
        stream.cancel()
    assert generate(engine).completion_tokens == 8


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
def test_seeded_answers_are_the_same_alone_and_in_company(open_model, engine_name, kind):
    _, engine = open_model(kind, engine_name)
    options = {"temperature": 1.3, "top_p": 0.95, "seed": 11, "max_new_tokens": 24}
    alone = generate(engine, **options).token_ids
    company = [
        engine.submit(GenerationRequest(prompt, temperature=0.8, top_k=5, max_new_tokens=30, eos_token_ids=()))
        for prompt in random_prompts(2, 40, 17)
    ]
    assert generate(engine, **options).token_ids == alone
    assert generate(engine, **{**options, "seed": 12}).token_ids != alone
    for stream in company:
        stream.result()


def test_score_and_choose_are_right_while_generation_runs_and_do_not_disturb_it(open_model, engine_name):
    model, engine = open_model("llama", engine_name)
    prompts = random_prompts(5, 30, 60, seed=3)
    streams = [engine.submit(GenerationRequest(p, max_new_tokens=150, eos_token_ids=())) for p in prompts]
    choices = [[40], [41, 42]]
    rounds = 0
    while any(not stream.ended for stream in streams) or rounds < 3:
        for scores, prompt in zip(engine.score(prompts), prompts, strict=True):
            assert scores == pytest.approx(plain_logprobs(model, prompt), abs=1e-4)
        expected = [sum(plain_logprobs(model, prompts[1] + choice)[-len(choice) :]) for choice in choices]
        assert engine.choose([prompts[1]], choices)[0] == pytest.approx(expected, abs=1e-4)
        rounds += 1
    answers = [list(stream.result().token_ids) for stream in streams]
    assert answers == [plain_greedy(model, prompt, 150) for prompt in prompts]


@pytest.mark.parametrize("engine_name", PAGED)
def test_a_cache_too_small_for_all_rows_gives_the_same_answers(open_model, engine_name):
    model, engine = open_model("llama", engine_name, SMALL.model_copy(update={"num_blocks": 9}))  # 288 tokens
    prompts = random_prompts(70, 60, 50, 40)
    streams = [engine.submit(GenerationRequest(p, max_new_tokens=60, eos_token_ids=())) for p in prompts]
    answers = [list(stream.result().token_ids) for stream in streams]
    assert answers == [plain_greedy(model, prompt, 60) for prompt in prompts]


@pytest.mark.parametrize("engine_name", PAGED)
def test_a_request_larger_than_the_cache_is_refused_with_what_to_raise(open_model, engine_name):
    _, engine = open_model("llama", engine_name, SMALL.model_copy(update={"num_blocks": 4}))
    with pytest.raises(PromptTooLongError) as error:
        generate(engine, prompt=[9] * 130)
    assert str(error.value) == (
        "The prompt has 130 tokens, but prompt and answer together may have 128 (the size of the KV cache; "
        "raise num_blocks or kv_cache_memory for more). Shorten the prompt."
    )


@pytest.mark.parametrize("engine_name", ["transformers", "generate"])
def test_nan_logits_fail_the_request_that_has_them_and_the_engine_goes_on(engine_name):
    model = random_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[300] = torch.nan  # an id that no text has
    engine = open_engine(model, byte_tokenizer(), SMALL, engine_name)
    try:
        healthy = generate(engine).token_ids
        with pytest.raises(GenerationError) as error:
            generate(engine, prompt=[9, 300])
        assert str(error.value) == "The model produced NaN or infinite logits for this request."
        assert generate(engine).token_ids == healthy
    finally:
        engine.close()


def test_many_threads_may_submit_at_once(engine):
    expected = generate(engine).token_ids
    answers: list[tuple[int, ...]] = []
    threads = [threading.Thread(target=lambda: answers.append(generate(engine).token_ids)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert answers == [expected] * 12


def test_close_fails_what_is_open_and_what_comes_later(loadable, engine_name):
    model = loadable("llama", engine_name)
    before = set(threading.enumerate())
    engine = open_engine(model, byte_tokenizer(), SMALL, engine_name)
    stream = engine.submit(GenerationRequest(PROMPT, max_new_tokens=240, eos_token_ids=()))
    started = set(threading.enumerate()) - before
    engine.close()
    engine.close()
    with pytest.raises(EngineUnavailableError, match=r"The engine was closed\."):
        stream.result()
    with pytest.raises(EngineUnavailableError, match=r"The engine is closed\."):
        engine.submit(GenerationRequest(PROMPT, constraint=UNREADABLE))
    with pytest.raises(EngineUnavailableError, match=r"The engine is closed\."):
        engine.submit(GenerationRequest(PROMPT))
    assert started
    assert not [thread for thread in started if thread.is_alive()]
    assert engine.stats().state == "closed"


def test_an_engine_that_nobody_holds_ends_its_thread(loadable, engine_name):
    model = loadable("llama", engine_name)
    before = set(threading.enumerate())
    engine = open_engine(model, byte_tokenizer(), SMALL, engine_name)
    del model
    generate(engine)
    started = set(threading.enumerate()) - before
    gone = weakref.ref(engine)
    del engine
    deadline = time.monotonic() + 10
    while (gone() is not None or any(thread.is_alive() for thread in started)) and time.monotonic() < deadline:
        gc.collect()
        threading.Event().wait(0.05)  # a thread that frees its model needs Python's lock many times
    assert started
    assert gone() is None
    assert not [thread for thread in started if thread.is_alive()]


def test_a_process_with_an_open_engine_and_a_running_request_exits(ir_folder, engine_name):
    model = repr(str(ir_folder("llama"))) if engine_name == "openvino" else "random_model('llama')"
    script = (
        "from mlflow_llm_plugins.generation import *\n"
        "from tests.models import *\n"
        f"engine = open_engine({model}, byte_tokenizer(), EngineSettings(), {engine_name!r})\n"
        "stream = engine.submit(GenerationRequest([9, 10], max_new_tokens=250, eos_token_ids=()))\n"
        "print(next(iter(stream)).token_id)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().isdecimal()


def test_choices_given_as_strings_are_tokenised_together_with_the_prompt(open_model):
    model, engine = open_model("llama")
    tokenizer = byte_tokenizer()
    row = engine.choose(["Is it so? "], ["Yes", "No"])[0]
    for logprob, choice in zip(row, ["Yes", "No"], strict=True):
        ids = tokenizer("Is it so? " + choice).input_ids
        assert logprob == pytest.approx(sum(plain_logprobs(model, ids)[-len(choice) :]), abs=1e-4)


@pytest.mark.parametrize(
    ("prompts", "choices", "message"),
    [
        (["a"], [], "choose() needs at least one choice, got none."),
        (["a"], ["b", ""], "A choice is empty: each needs at least one token to be scored."),
        ([""], ["b"], "choose() needs a prompt of at least one token before the choices; this one is empty."),
        (
            ["a", "b"],
            [["c", "d"]],
            "choose() got 2 prompts and 1 sequences of choices: give one sequence for all prompts, or one for each.",
        ),
        (
            ["a" * 300],
            ["b"],
            "A text of 301 tokens is longer than the context of 256. Cut it, or score it in windows.",
        ),
    ],
)
def test_choices_that_cannot_be_scored_are_refused(open_model, prompts, choices, message):
    _, engine = open_model("llama")
    with pytest.raises(InvalidInputError) as error:
        engine.choose(prompts, choices)
    assert str(error.value) == message


def test_each_prompt_may_have_its_own_choices(open_model):
    _, engine = open_model("llama")
    together = engine.choose(["one ", "two "], [["a", "bc"], ["d"]])
    assert together[0] == pytest.approx(engine.choose(["one "], ["a", "bc"])[0], abs=1e-5)
    assert together[1] == pytest.approx(engine.choose(["two "], ["d"])[0], abs=1e-5)


def test_scoring_nothing_or_single_tokens_gives_empty_lists(open_model):
    _, engine = open_model("llama")
    assert engine.score([]) == []
    assert engine.score([[9], [9, 10]])[0] == []
    assert engine.choose([], ["a"]) == []


def test_unknown_settings_are_refused_with_what_was_meant():
    with pytest.raises(InvalidInputError, match=r"unknown key 'max_batch_token'\. Did you mean 'max_batch_tokens'\?"):
        EngineSettings.parse({"max_batch_token": 3}, "engine_config")
