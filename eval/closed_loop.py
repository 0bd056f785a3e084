"""Closed loop: a planner in the driver's seat of every scenario, and what the driving was like.

    results.json    per scenario and in all: collisions, off-road, time to collision, comfort, progress, by scenario type
    rollouts.jsonl  the ego's states at 10 Hz and what bound it at each, one scenario a line

Measures come from `nsdrive.world.measure`, each as a number with its unit; nothing is weighted into a score here.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nsdrive import __version__
from nsdrive.config import to_plain
from nsdrive.dataset import claim_folder, json_line, write_atomically
from nsdrive.parallel import in_order
from nsdrive.scenarios.catalogue import open_source
from nsdrive.world.measure import clearance_m, comfort, off_road_m, overlap, time_to_collision_s
from nsdrive.world.simulate import simulate
from nsdrive.world.types import Planner, Rollout
from nsdrive.world.vehicle import ego_box

ROLLOUTS = "rollouts.jsonl"
KEPT = ".scenarios"  # finished scenarios of a run that is not yet finished, for --resume


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Which scenarios, who drives, and whether the others answer."""

    scenarios: Any = "synthetic"
    planner: Any = "idm"
    agents: Literal["replay", "reactive"] = "replay"
    start_tick: int | None = None  # None: as early as the scenario allows
    duration_s: float | None = None  # None: to the scenario's end


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """All scenarios' measures, and the scenarios that failed, each with its line."""

    rows: tuple[Mapping[str, Any], ...]
    failures: tuple[str, ...]

    def table(self) -> str:
        """Means over scenarios, by scenario type."""
        head = f"{'scenario type':52s} {'n':>4s} {'collisions':>10s} {'off road m':>10s} {'min TTC s':>9s} {'progress m':>10s}"
        groups: dict[str, list[Mapping[str, Any]]] = {"all": list(self.rows)}
        for row in self.rows:
            groups.setdefault(row["scenario_type"], []).append(row)
        lines = [head]
        for name, rows in groups.items():
            ttc = [r["min_ttc_s"] for r in rows if r["min_ttc_s"] is not None]
            lines.append(
                f"{name:52s} {len(rows):4d} {sum(len(r['collided_with']) > 0 for r in rows):10d} "
                f"{max((r['off_road_m'] for r in rows), default=0.0):10.2f} {min(ttc, default=float('nan')):9.2f} "
                f"{np.mean([r['progress_m'] for r in rows]) if rows else 0.0:10.1f}"
            )
        return "\n".join(lines)


def closed_loop(
    config: SimulateConfig,
    make_planner: Callable[[], Planner],
    *,
    out: Path,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ClosedLoop:
    """Drive every scenario and write `out`. A scenario that cannot be driven is a failure with its line, and counted."""
    source = open_source(config.scenarios.name, config.scenarios.config)
    items = list(source.items())
    claim_folder(out, resume=resume, overwrite=overwrite, marker="config.json")
    settings = json.dumps({"nsdrive": __version__, "config": to_plain(config)}, indent=2, sort_keys=True) + "\n"
    if (out / "config.json").is_file() and (out / "config.json").read_text(encoding="utf-8") != settings:
        raise ValueError(f"{out} was begun with other settings: give the same ones, or use --overwrite")
    write_atomically(out / "config.json", settings)
    jobs = [
        Drive(item=item, config=config, make_planner=make_planner, kept=out / KEPT / f"{number:06d}.json")
        for number, item in enumerate(items)
    ]
    driven = []
    for done, row in enumerate(in_order(drive, jobs, workers), start=1):
        driven.append(row)
        progress(done, len(jobs))
    rows = tuple(r["measures"] for r in driven if r["error"] is None)
    failures = tuple(f"{r['item']}: {r['error']}" for r in driven if r["error"] is not None)
    write_atomically(out / ROLLOUTS, "".join(json_line(r["rollout"]) for r in driven if r["error"] is None))
    results = {"nsdrive": __version__, "config": to_plain(config), "scenarios": rows, "failures": failures}
    write_atomically(out / "results.json", json.dumps(results, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(out / KEPT, ignore_errors=True)
    return ClosedLoop(rows=rows, failures=failures)


def measures_of(rollout: Rollout) -> dict[str, Any]:
    """Numbers with units, rounded to four decimals; None where a number is not defined."""
    poses = np.array([s.pose for s in rollout.states])
    speeds = np.array([s.speed_mps for s in rollout.states])
    accels = np.array([s.accel_mps2 for s in rollout.states])
    boxes = ego_box(poses)
    felt = comfort(poses[:, 2], speeds, accels)
    ttc = time_to_collision_s(boxes, speeds, rollout.frames).seconds
    clearance = clearance_m(boxes, rollout.frames)
    bound = Counter(p.decision.binding_constraint.rule for p in rollout.plans if p.decision is not None)
    return {
        "scenario": rollout.scenario.scenario_id,
        "scenario_type": rollout.scenario.scenario_type,
        "planner": rollout.planner,
        "ticks": len(rollout.states) - 1,
        "collided_with": [o.track_id for o in overlap(boxes, rollout.frames)],
        "off_road_m": _rounded(off_road_m(boxes, rollout.scenario.lane_map).max()),
        "min_ttc_s": _rounded(ttc.min()),
        "min_clearance_m": _rounded(clearance.min()),
        "progress_m": _rounded(np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1).sum()),
        "max_abs_jerk_mps3": _rounded(np.abs(felt.lon_jerk_mps3).max()),
        "max_abs_lateral_accel_mps2": _rounded(np.abs(felt.lat_accel_mps2).max()),
        "min_accel_mps2": _rounded(accels.min()),
        "final_speed_mps": _rounded(speeds[-1]),
        "binding_ticks": dict(sorted(bound.items())),
    }


@dataclass(frozen=True, kw_only=True)
class Drive:
    """One scenario for one worker."""

    item: str
    config: SimulateConfig
    make_planner: Callable[[], Planner]
    kept: Path


def drive(job: Drive) -> dict[str, Any]:
    """One scenario's measures and rollout, or the line that says why there are none; kept for --resume."""
    if job.kept.is_file():
        kept: dict[str, Any] = json.loads(job.kept.read_text(encoding="utf-8"))
        return kept
    config = job.config
    row: dict[str, Any]
    try:
        scenario = open_source(config.scenarios.name, config.scenarios.config).load(job.item)
        rollout = simulate(
            scenario,
            job.make_planner(),
            start_tick=config.start_tick,
            duration_s=config.duration_s,
            agents=config.agents,
        )
        row = {"item": job.item, "error": None, "measures": measures_of(rollout), "rollout": told(rollout)}
    except ValueError as error:
        row = {"item": job.item, "error": " ".join(str(error).split())}
    write_atomically(job.kept, json_line(row))
    return row


def told(rollout: Rollout) -> dict[str, Any]:
    """states: rows of x_m, y_m, heading_rad, speed_mps, accel_mps2, steering_rad (global, 10 Hz); binding: a rule for each."""
    states = [[*s.pose, s.speed_mps, s.accel_mps2, s.steering_rad] for s in rollout.states]
    return {
        "scenario": rollout.scenario.scenario_id,
        "planner": rollout.planner,
        "states": [[round(float(v), 4) for v in state] for state in states],
        "binding": [None if p.decision is None else p.decision.binding_constraint.rule for p in rollout.plans],
    }


def _rounded(value: Any) -> float | None:
    return round(float(value), 4) + 0.0 if np.isfinite(value) else None
