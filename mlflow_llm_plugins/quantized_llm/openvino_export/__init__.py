"""From a causal language model of transformers to OpenVINO files that are served without torch."""
