"""How long a planner thinks: measured around every call, and kept apart from what is the same in every run.

    timing.json   per_tick and per_answer, over all scenarios and for each: n, mean_s, p50_s, p95_s, max_s

Per tick: everything from the observation to the plan, with the drawing of a model's images. Per answer: what the planner itself
says that its answer took (`Plan.seconds`); none for a planner that is not asked. A process's first call holds what is done once:
reading compiled code, for a model its warming up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nsdrive.dataset import json_line
from nsdrive.world.types import EgoState, Mission, Observation, Plan, Planner

TIMING = "timing.json"
NUMBERS = ("n", "mean_s", "p50_s", "p95_s", "max_s")


@dataclass(kw_only=True)
class Timed:
    """A planner, and the seconds of every call of its `plan`."""

    planner: Planner
    name: str = field(init=False)
    ticks: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.planner.name

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        self.planner.initialize(mission, ego)

    def plan(self, observation: Observation) -> Plan:
        before = time.perf_counter()
        planned = self.planner.plan(observation)
        self.ticks.append(time.perf_counter() - before)
        if planned.seconds is not None:
            self.answers.append(float(planned.seconds))
        return planned

    def to_row(self) -> dict[str, list[float]]:
        return {"ticks": [round(s, 6) for s in self.ticks], "answers": [round(s, 6) for s in self.answers]}


def timing_json(measured: Sequence[tuple[str, Mapping[str, Sequence[float]]]]) -> str:
    """timing.json of the items' `Timed.to_row`s."""
    every: dict[str, list[float]] = {"ticks": [], "answers": []}
    for _, row in measured:
        for kind, seconds in every.items():
            seconds.extend(row[kind])
    scenarios = [{"item": item, **_both(row)} for item, row in measured]
    return json_line({**_both(every), "scenarios": scenarios})


def read_timing(folder: Path) -> Mapping[str, Any] | None:
    """A run's timing.json, None where there is none that can be read: it may be left out without harm to anything else."""
    try:
        read = json.loads((folder / TIMING).read_text(encoding="utf-8"))
        for kind in ("per_tick", "per_answer"):
            if read[kind] is not None:
                read[kind] = {name: float(read[kind][name]) for name in NUMBERS}
        found: Mapping[str, Any] = read
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def lines(timing: Mapping[str, Any]) -> list[str]:
    """For a terminal: one line each for ticks and answers."""
    return [
        f"seconds per {kind.removeprefix('per_')}: mean {t['mean_s']:.4f}, p50 {t['p50_s']:.4f}, p95 {t['p95_s']:.4f}, "
        f"max {t['max_s']:.4f} ({t['n']:.0f} {kind.removeprefix('per_')}s)"
        for kind in ("per_tick", "per_answer")
        if (t := timing[kind]) is not None
    ]


def _both(row: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {"per_tick": _summary(row["ticks"]), "per_answer": _summary(row["answers"])}


def _summary(seconds: Sequence[float]) -> dict[str, float] | None:
    """NUMBERS; None for no measurement."""
    if not seconds:
        return None
    p50, p95 = np.percentile(seconds, [50.0, 95.0])
    numbers = (float(np.mean(seconds)), float(p50), float(p95), float(max(seconds)))
    return {"n": len(seconds), **{name: round(v, 6) for name, v in zip(NUMBERS[1:], numbers, strict=True)}}
