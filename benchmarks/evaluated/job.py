"""What one process is asked to measure, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

Figures = Mapping[str, float]

WALL, CPU = "wall [s]", "CPU [s]"


@dataclass(frozen=True, slots=True)
class Job:
    what: str  # a key of PERFORMERS of `child`
    contender: str
    load: str
    model: str  # a key of SHAPES
    rows: int
    max_tokens: int  # of an answer that is evaluated
    artifact: str  # folder of the model that is evaluated; empty for judges, which build theirs

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Result:
    figures: Figures = field(default_factory=dict)
    parts: Mapping[str, Figures] = field(default_factory=dict)  # what some of it cost, where that was timed
    failure: str = ""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Result:
        return cls(**json.loads(path.read_text(encoding="utf-8")))
