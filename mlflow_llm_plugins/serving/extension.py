"""How MLflow's scoring app gets what this package adds to it."""

from __future__ import annotations

import os
from typing import Any

from mlflow_llm_plugins.serving import keys as api_keys
from mlflow_llm_plugins.serving.access_log import name_requests
from mlflow_llm_plugins.serving.decisions import Decisions
from mlflow_llm_plugins.serving.front import Front
from mlflow_llm_plugins.serving.invocations import Invocations
from mlflow_llm_plugins.serving.keys import ApiKeys
from mlflow_llm_plugins.serving.lifespan import Lifespan
from mlflow_llm_plugins.serving.metrics import Metrics
from mlflow_llm_plugins.serving.model import ServedModel
from mlflow_llm_plugins.serving.openapi import openapi_of
from mlflow_llm_plugins.serving.routes import Routes, our_app
from mlflow_llm_plugins.serving.server import Server
from mlflow_llm_plugins.serving.settings import ServingSettings, variable
from mlflow_llm_plugins.serving.tracing import Tracer


def extend(app: Any, model: Any, served: ServedModel) -> None:
    """Put our layer around the app; it is changed only when all parts are there.

    Args:
        app: The FastAPI app that `mlflow.pyfunc.scoring_server.init` made; no request has reached it yet.
        model: The pyfunc model that it serves.
        served: The same model, as ours.

    Raises:
        InvalidInputError: An environment variable with a value that is not allowed.
    """
    settings = ServingSettings.from_environment(os.environ)
    keys = ApiKeys.from_environment(os.environ)
    server = Server(served, settings, Metrics(), Tracer.from_environment(os.environ))
    routes = Routes(server)
    decisions = Decisions(server, served.decision_temperatures)
    ours = our_app(server, routes, decisions, Invocations(server, routes, model).answer)
    lifespan = Lifespan(server, keys, app.router.lifespan_context)
    stock_routes = tuple(app.routes)
    app.add_middleware(
        Front,
        ours=ours,
        keys=keys,
        state=server.state,
        metrics=server.metrics,
        max_body_bytes=settings.max_body_bytes,
        stock_routes=stock_routes,
    )
    name_requests()
    app.router.lifespan_context = lifespan
    app.openapi = openapi_of(app.openapi, settings, keys)


def guards_are_wanted() -> bool:
    """Whether somebody set keys or limits, without which the server must not run then."""
    limits = any(os.environ.get(variable(name)) for name in ServingSettings.model_fields)
    return limits or api_keys.keys_are_wanted(os.environ)
