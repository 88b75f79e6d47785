"""The names that OpenVINO GenAI and optimum-intel have for the files of a language model."""

from __future__ import annotations

from typing import Final

MODEL_FILE: Final = "openvino_model.xml"
WEIGHTS_FILE: Final = "openvino_model.bin"
MODEL_FILES: Final = (MODEL_FILE, WEIGHTS_FILE)

TOKENIZER_FILE: Final = "openvino_tokenizer.xml"
DETOKENIZER_FILE: Final = "openvino_detokenizer.xml"
TOKENIZER_FILES: Final = (TOKENIZER_FILE, "openvino_tokenizer.bin", DETOKENIZER_FILE, "openvino_detokenizer.bin")

CONFIG_FILE: Final = "config.json"
GENERATION_CONFIG_FILE: Final = "generation_config.json"
