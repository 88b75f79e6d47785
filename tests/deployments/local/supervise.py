"""A supervisor of fake servers, with little patience.

python -m tests.deployments.local.supervise FOLDER TOKEN PATIENCE_AS_JSON
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.records import Spec
from mlflow_llm_plugins.deployments.local.supervision.patience import Patience
from mlflow_llm_plugins.deployments.local.supervision.supervisor import Supervisor

COMMAND = Path(__file__).with_name("fake_command.py")


def fake_command(spec: Spec, port: int) -> list[str]:
    return [sys.executable, str(COMMAND), str(port)]


def main() -> None:
    folder, token, patience, *foreground = sys.argv[1:]
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    supervisor = Supervisor(
        DeploymentFolder(Path(folder)),
        token,
        echo=sys.stderr.buffer if foreground else None,
        command_of=fake_command,
        patience=Patience(**json.loads(patience)),
    )
    sys.exit(asyncio.run(supervisor.run()))


if __name__ == "__main__":
    main()
