"""MLflow's scoring server as a server for language models: OpenAI's API, limits, keys, metrics, a bounded drain.

`extend` is given the app of `mlflow models serve` and the model in it. Requests pass `front` (keys, limits), then
`routes` or, for what is MLflow's, its own app. A request for text is a `job`: read and submitted on a thread, its
`answers` arrive on the event loop through the `mailbox`, and leave as one body or as an `event_stream`.
Knows the flavor by the protocols in `model` only.
"""

from mlflow_llm_plugins.serving.extension import extend, guards_are_wanted
from mlflow_llm_plugins.serving.settings import ServingSettings

__all__ = ["ServingSettings", "extend", "guards_are_wanted"]
