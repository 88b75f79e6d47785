"""What `get_endpoint` returns: a dictionary that also has the attributes which MLflow reads in some places."""

from __future__ import annotations

from typing import Any


class EndpointDescription(dict[str, Any]):
    """MLflow's metrics ask a dictionary for "task" and an object for `endpoint_type`."""

    @property
    def name(self) -> str:
        """Of the endpoint."""
        return str(self["name"])

    @property
    def task(self) -> str | None:
        """For example llm/v1/chat."""
        found: str | None = self["task"]
        return found

    @property
    def endpoint_type(self) -> str | None:
        """The same."""
        return self.task
