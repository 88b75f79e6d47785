"""An export reports nothing to Intel, and writes nothing at home."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from mlflow_llm_plugins.generation.openvino.telemetry import telemetry_refused

RECORD = """
import sys
from openvino_telemetry.utils.sender import TelemetrySender
sent = []
TelemetrySender.send = lambda self, backend, message: sent.append(message)
"""
EXPORT = """
from pathlib import Path
from mlflow_llm_plugins.quantized_llm.openvino_export.export import export_model
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe
from tests.models import byte_tokenizer, random_model
export_model(random_model("llama"), byte_tokenizer(), Path(sys.argv[1]), OpenVINORecipe(weight_format="int8"))
"""
IMPORT = "import openvino\n"
SECOND = "from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry, send_conversion_result\n"
REPORT_AGAIN = SECOND + "init_ovc_telemetry(); send_conversion_result('success')\n"
PRINT = "print('sent', len(sent))"


def run(code: str, home, folder) -> int:
    """How many reports a fresh process would have sent, outside CI and with nothing refused at home."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": os.pathsep.join([os.getcwd(), f"{os.getcwd()}/examples"])}
    done = subprocess.run(
        [sys.executable, "-c", RECORD + code + PRINT, tempfile.mkdtemp(dir=folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("sent")[2])


@pytest.fixture
def places(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "exported"
    home.mkdir()
    folder.mkdir()
    return home, folder


@pytest.mark.skipif(sys.platform != "linux", reason="openvino-telemetry looks for its file elsewhere")
def test_importing_openvino_alone_would_report(places):
    assert run(IMPORT, *places) > 0
    assert (places[0] / "intel").exists()


@pytest.mark.slow
def test_an_export_sends_nothing_and_leaves_no_file_at_home(places):
    assert run(EXPORT, *places) == 0
    assert not (places[0] / "intel").exists()


@pytest.mark.slow
def test_consent_that_was_there_before_is_there_again_after_an_export(places):
    reported = run(IMPORT, *places)
    assert run(IMPORT + EXPORT, *places) == reported
    assert run(IMPORT + EXPORT + REPORT_AGAIN, *places) > reported


def test_refusals_of_two_blocks_last_until_both_have_ended():
    from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker

    before = OptInChecker.check
    first, second = telemetry_refused(), telemetry_refused()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert OptInChecker().check(False) is ConsentCheckResult.DECLINED
    second.__exit__(None, None, None)
    assert OptInChecker.check is before
