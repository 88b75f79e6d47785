"""The code of the slide that this target was made for, as it stands, but for the model's name."""

from __future__ import annotations

import mlflow
import pytest

pytestmark = pytest.mark.slow

# Slide 6 of "Unlocking Efficiency in Machine Learning: A Guide to MLflow and LLMs".
SLIDE = """
import mlflow
from mlflow.deployments import get_deploy_client

# Load the model from MLflow Model Registry
model_name = "LLM_Model"
model_version = "1"
model_uri = f"models:/{model_name}/{model_version}"

# Set up deployment client (using local deployment for demonstration)
client = get_deploy_client("local")

# Deploy the model
deployment_name = "llm-deployment"
deployment = client.create_deployment(
    name=deployment_name,
    model_uri=model_uri,
    config={"MLFLOW_DEPLOYMENT_FLAVOR": "transformers"}
)

# Make predictions using the deployed model
input_data = {"inputs": "Once upon a time"}
prediction = client.predict(deployment_name, input_data)

print(f"Generated text: {prediction}")

# Clean up
client.delete_deployment(deployment_name)
"""


@pytest.fixture
def registered(tiny_llama, tracking):
    """A model of the stock flavor transformers in the registry, under a name that is not the slide's."""
    from transformers import pipeline

    answering = pipeline("text-generation", model=str(tiny_llama), device="cpu")
    mlflow.transformers.log_model(
        answering,
        name="model",
        registered_model_name="tiny-llm",
        pip_requirements=["mlflow", "torch", "transformers"],
    )
    return "tiny-llm"


def test_the_slide_runs_as_it_stands(registered, home, capsys):
    exec(compile(SLIDE.replace("LLM_Model", registered), "slide 6", "exec"), {})
    said = capsys.readouterr().out
    assert "Generated text: {'predictions':" in said
