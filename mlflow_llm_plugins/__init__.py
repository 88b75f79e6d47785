"""Open language models on your own hardware, inside stock MLflow.

Importing this package loads nothing else; take the plug you need, for example
`from mlflow_llm_plugins import quantized_llm`.
"""

__version__ = "0.1.0"
