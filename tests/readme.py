"""The README as data: its code blocks, and the part that is generated. `python -m tests.readme` writes it anew."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from pydantic.fields import FieldInfo

import mlflow_llm_plugins.metrics
from mlflow_llm_plugins.deployments.settings import DeploymentConfig
from mlflow_llm_plugins.evaluation.settings import EvaluatorSettings
from mlflow_llm_plugins.generation.engines import ENGINES, EngineRow
from mlflow_llm_plugins.generation.features import FEATURES
from mlflow_llm_plugins.metrics import METRICS
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.serving.settings import ServingSettings, variable

PATH = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PATH.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def settings_table() -> str:
    """Every key of `model_config` with its default and meaning."""
    rows = [_row(name, field) for name, field in ModelConfig.model_fields.items()]
    return "\n".join(["| setting | default | |", "|---|---|---|", *rows, ""])


def engines_table() -> str:
    """What requests may ask for, and what each engine makes of it."""
    names = " | ".join(f"`{name}`" for name in ENGINES)
    rows = [
        f"| {feature.label} | {' | '.join(_support(row, name) for row in ENGINES.values())} |"
        for name, feature in FEATURES.items()
    ]
    return "\n".join([f"| | {names} |", "|---" * (len(ENGINES) + 1) + "|", *rows, ""])


def _support(row: EngineRow, feature: str) -> str:
    if reason := row.limits.refused.get(feature):
        return f"no. {reason}"
    return f"yes. {words}" if (words := row.limits.approximated.get(feature)) else "yes"


def limits_table() -> str:
    """Every environment variable of a server with its default and meaning."""
    rows = [_row(variable(name), field) for name, field in ServingSettings.model_fields.items()]
    return "\n".join(["| environment variable | default | |", "|---|---|---|", *rows, ""])


def deployment_table() -> str:
    """Every key of a deployment's configuration with its default and meaning."""
    rows = [_row(field.alias or name, field) for name, field in DeploymentConfig.model_fields.items()]
    return "\n".join(["| config of a deployment | default | |", "|---|---|---|", *rows, ""])


def evaluator_table() -> str:
    """Every key of `evaluator_config` with its default and meaning."""
    rows = [_row(name, field) for name, field in EvaluatorSettings.model_fields.items()]
    return "\n".join(["| `evaluator_config` | default | |", "|---|---|---|", *rows, ""])


def metrics_table() -> str:
    """Every metric with what its documentation begins with."""
    rows = [f"| `{name}` | {_summary(name)} |" for name in METRICS]
    return "\n".join(["| metric | |", "|---|---|", *rows, ""])


def _summary(name: str) -> str:
    documentation = inspect.getdoc(getattr(mlflow_llm_plugins.metrics, name)) or ""
    return " ".join(documentation.partition("\n\n")[0].split())


def _row(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    return f"| `{name}` | {'' if default in (None, {}, '') else default} | {field.description} |"


TABLES = {  # by their marks in the README
    "engines": engines_table,
    "settings": settings_table,
    "limits": limits_table,
    "metrics": metrics_table,
    "evaluator": evaluator_table,
    "deployment": deployment_table,
}


def written(mark: str) -> str:
    """The table between two marks."""
    found = _between(mark).search(PATH.read_text(encoding="utf-8"))
    assert found is not None, f"no marks for {mark}"
    return found[0]


def _between(mark: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- {mark} -->\n).*?(?=<!-- /{mark} -->)", re.DOTALL)


if __name__ == "__main__":
    for mark, table in TABLES.items():
        text = table()
        PATH.write_text(
            _between(mark).sub(lambda _, text=text: text, PATH.read_text(encoding="utf-8")), encoding="utf-8"
        )
