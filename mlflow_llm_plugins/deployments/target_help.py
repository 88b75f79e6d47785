"""What `mlflow deployments help -t local` says, made from the settings themselves."""

from __future__ import annotations

from typing import get_args

from pydantic.fields import FieldInfo

from mlflow_llm_plugins.deployments.local.home import HOME
from mlflow_llm_plugins.deployments.settings import DeploymentConfig, EndpointConfig
from mlflow_llm_plugins.settings import Settings

_TEXT = """\
The target `local` runs deployments on this machine. Each one is a supervisor process that outlives the command: it
runs `mlflow models serve`, restarts it after a crash, writes its log, and replaces it without losing requests.

  mlflow deployments create -t local --name chat -m models:/chat@champion -C port=5001
  mlflow deployments predict -t local --name chat -I request.json
  mlflow deployments update -t local --name chat -m models:/chat/2
  mlflow deployments get -t local --name chat
  mlflow deployments delete -t local --name chat

Target URIs
  local             the default state directory: {home}, else the user's directory for the state of programs
  local:/some/path  that state directory
  local://name      a state directory of this name beside the default deployments

create and update return when the model answers, and fail with the end of the server's log. An update without a model
restarts the deployment, also one that is stopped, failed or lost. list and get show the state: starting, ready,
unhealthy, restarting, failed, stopped (for example by a reboot), lost (its supervisor was killed). Nothing starts by
itself after a reboot. What an update does not name stays, also within environment, labels and model_config; -C port=
(nothing behind it) gives a setting its default again.

Configuration of deployments: -C name=value, or config={{"name": value}} in Python
{deployment}

Endpoints: a name over deployments, for `--endpoint`, and for models `endpoints:/name` where
MLFLOW_DEPLOYMENTS_TARGET=local
  mlflow deployments create-endpoint -t local --endpoint e -C traffic=a=90,b=10
{endpoint}

Input files of predict hold what the server takes: {{"messages": [...]}} and {{"prompt": "..."}} for language models of
the flavor quantized_llm, {{"inputs": ...}}, {{"dataframe_split": ...}}, {{"dataframe_records": [...]}} or
{{"instances": ...}} for any.
"""


def target_help() -> str:
    """The whole text."""
    return _TEXT.format(home=HOME, deployment=_table(DeploymentConfig), endpoint=_table(EndpointConfig))


def _table(settings: type[Settings]) -> str:
    rows = [(field.alias or name, field) for name, field in settings.model_fields.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {_described(field)}" for name, field in rows)


def _described(field: FieldInfo) -> str:
    text = field.description or ""
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        text += f" One of {', '.join(choices)}."
    return text if field.default in (None, {}) else f"{text} Default: {_shown(field.default)}."


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
