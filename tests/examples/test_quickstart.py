"""The quickstart as a user runs it, in an empty directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("own_model", [False, True], ids=["trains its own", "--model"])
def test_the_quickstart_goes_from_nothing_to_a_served_answer(own_model, tiny_llama, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    options = ["--model", str(tiny_llama)] if own_model else ["--seconds", "3"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "quickstart.py"), "--max-tokens", "6", *options],
        cwd=tmp_path,
        env={**environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for words in (
        "is version 1 of chat, alias champion",
        "'object': 'chat.completion'",
        '{"predictions": [',
        "held-out perplexity",
    ):
        assert words in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│")] == ["fp32", "int8", "NF4"]
    assert done.stderr.count("MatMul8bitLt") <= 1  # bitsandbytes would say it at every product of every token
