"""Models that accelerate has spread out are answered for as well, where paged attention cannot serve them."""

import pytest
from transformers import AutoModelForCausalLM

from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from tests.generation.conftest import SMALL, plain_greedy, plain_logprobs, random_prompts
from tests.models import byte_tokenizer, random_model, save_checkpoint

ON_CPU = ["model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"]


@pytest.mark.parametrize(
    ("device_map", "engine_name"),
    [
        ("auto", "transformers"),
        ("cpu", "transformers"),
        ({**dict.fromkeys(ON_CPU, "cpu"), "model.layers.1": "disk"}, "generate"),
    ],
    ids=["auto", "cpu", "one layer on disk"],
)
def test_every_placement_gives_the_same_answers(tmp_path, device_map, engine_name):
    reference = random_model("llama")
    save_checkpoint(tmp_path / "model", reference, byte_tokenizer())
    placed = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    engine = open_engine(placed, byte_tokenizer(), SMALL)
    try:
        prompts = random_prompts(5, 40)
        streams = [engine.submit(GenerationRequest(p, max_new_tokens=10, eos_token_ids=())) for p in prompts]
        answers = [list(stream.result().token_ids) for stream in streams]
        assert answers == [plain_greedy(reference, prompt, 10) for prompt in prompts]
        assert engine.score(prompts)[1] == pytest.approx(plain_logprobs(reference, prompts[1]), abs=1e-4)
        assert engine.stats().engine == engine_name
    finally:
        engine.close()
