"""What the engine `openvino` cannot do, and what it does in another way. Imports nothing of OpenVINO."""

from __future__ import annotations

from mlflow_llm_plugins.generation.features import Limits

_REMEDY = "Leave it out, or serve the original weights with engine='transformers'."
_NOT_IN_LIBRARY = f"OpenVINO GenAI has nothing like it. {_REMEDY}"

OPENVINO_LIMITS = Limits(
    refused={
        "no_repeat_ngram_size": _NOT_IN_LIBRARY,
        "logit_bias": _NOT_IN_LIBRARY,
        "logits_processors": f"Tokens are picked in OpenVINO GenAI, which calls no Python. {_REMEDY}",
        "top_logprobs": "OpenVINO GenAI tells only those of the tokens that it picked: ask for 0.",
        "lark": "OpenVINO GenAI reads no Lark. Use json_schema, regex or choice, or serve the original weights with "
        "engine='transformers'.",
        "lora": "OpenVINO GenAI changes adapters for all requests at once. Merge it when the model is logged.",
        "cached_tokens": "OpenVINO GenAI does not say what it found in its cache.",
        "gpu": "It runs on CPUs here.",
    },
    approximated={
        "seed": "Exactly so only with inference_precision and kv_cache_precision 'f32': otherwise what runs beside a "
        "request, or left its beginning in the prefix cache, moves the last bits.",
        "top_p": "It is taken of the 1000 most probable tokens: of all, each step would sort the vocabulary.",
        "penalties": "frequency_penalty and presence_penalty are added to a logit below 0, not subtracted: right for "
        "models whose likely tokens have logits above 0 (Llama, Qwen), not for others (GPT-2).",
        "constrained_min_new_tokens": "The constraint goes before: its form may end earlier.",
        "json_schema": "Properties come in the schema's order, without others unless additionalProperties says so; "
        "numbers have at most 18 digits; keywords that cannot be kept are refused by name.",
    },
)
