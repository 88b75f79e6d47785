"""The map: what this package plugs into MLflow, and what each part needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"', (ROOT / "mlflow_llm_plugins/__init__.py").read_text(encoding="utf-8"), re.M
).group(1)

TORCH = [
    "torch>=2.13",
    "transformers>=5.20,<6",
    "accelerate>=1.1",
    "bitsandbytes>=0.49",
    "peft>=0.18",
    "llguidance>=1.3",
]
OPENVINO = [
    "openvino>=2026.4",
    "openvino-genai>=2026.4",
    "openvino-tokenizers>=2026.4",
    "tokenizers>=0.23.1",
    "jinja2>=3.1.6",
]
OPENVINO_EXPORT = [*OPENVINO, "nncf>=3.4", *TORCH]
EVALUATION = [
    *["textstat>=0.7.13", "nltk>=3.9.1", "pyphen>=0.17", "evaluate>=0.4.6", "rouge-score>=0.1.2", "sacrebleu>=2.5"],
    *["rapidfuzz>=3.9", "regex>=2025.10.22", "jsonschema>=4.18", "scipy>=1.11", "matplotlib>=3.8"],
]
TEST = [
    *["pytest>=8", "pytest-timeout", "pytest-xdist", "hypothesis", "httpx", "jsonschema", "openai", "rich"],
    "schemathesis>=4.32; python_version >= '3.11'",
]

setup(
    name="mlflow-llm-plugins",
    version=VERSION,
    description="Quantized open language models inside stock MLflow: log, serve, deploy and evaluate them.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0 AND BSD-2-Clause",  # BSD: the dictionary of the readability metrics
    license_files=["LICENSE", "NOTICE", "mlflow_llm_plugins/metrics/readability/data/LICENSE"],
    packages=find_packages(include=["mlflow_llm_plugins*"]),
    package_data={"mlflow_llm_plugins": ["py.typed"], "mlflow_llm_plugins.metrics.readability": ["data/*"]},
    python_requires=">=3.10",
    install_requires=[
        *["mlflow>=3.11.1,<4", "pydantic>=2", "psutil>=5.9.8", "packaging", "prometheus-client>=0.20"],
        *["click", "filelock>=3.12", "platformdirs>=4", "requests", "tenacity>=9", "tqdm>=4.66.3"],  # deployments
        "urllib3>=2.2",  # below it, a refusal of a body that is not read yet is lost
    ],
    extras_require={
        "torch": TORCH,
        "openvino": OPENVINO,  # serves models that are exported
        "openvino-export": OPENVINO_EXPORT,  # exports them
        "evaluation": EVALUATION,
        "all": [*OPENVINO_EXPORT, *EVALUATION, "rich", "nvidia-ml-py", "httpx"],
        "test": TEST,
        "dev": [*TEST, "ruff", "mypy", "types-psutil", "types-tqdm"],
    },
    entry_points={
        # `mlflow deployments ... -t local`: servers on this machine that outlive the command.
        "mlflow.deployments": ["local=mlflow_llm_plugins.deployments.plugin"],
        # `mlflow.models.evaluate(..., evaluators="llm")`: metrics of language models, and judges, without a network.
        "mlflow.model_evaluator": ["llm=mlflow_llm_plugins.evaluation.evaluator:LLMEvaluator"],
        # Tags on every run: hardware, library versions, where it ran.
        "mlflow.run_context_provider": [
            "llm=mlflow_llm_plugins.run_context:LLMRunContextProvider",
            # No tags; MLflow loads it early, which lets it extend `mlflow models serve`.
            "llm-hooks=mlflow_llm_plugins.mlflow_hooks:HooksProvider",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
