"""The README as data: its code blocks, and the part that is generated. `python -m tests.readme` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from mlflow_llm_plugins.quantized_llm.config import ModelConfig

PATH = Path(__file__).parents[1] / "README.md"
SETTINGS = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)


def blocks(language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PATH.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def settings_table() -> str:
    """Every key of `model_config` with its default and meaning."""
    rows = [
        f"| `{name}` | {'' if field.default is None else field.default} | {field.description} |"
        for name, field in ModelConfig.model_fields.items()
    ]
    return "\n".join(["| setting | default | |", "|---|---|---|", *rows, ""])


if __name__ == "__main__":
    PATH.write_text(SETTINGS.sub(lambda _: settings_table(), PATH.read_text(encoding="utf-8")), encoding="utf-8")
