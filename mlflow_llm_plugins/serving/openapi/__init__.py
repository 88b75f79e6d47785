"""The server's OpenAPI document: MLflow's own routes beside ours, with what each reads and answers.

`document` has the routes; the JSON schemas that they name come from `generation`, `decisions` and `answers`, which
are made of the parts in `schema`.
"""

from mlflow_llm_plugins.serving.openapi.document import openapi_of

__all__ = ["openapi_of"]
