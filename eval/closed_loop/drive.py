"""Closed loop: a planner in the driver's seat of every scenario, and what the driving was like.

    results.json    per scenario, by scenario type and in all: nuPlan's closed-loop score with every term, and plain measures
    rollouts.jsonl  the ego's states at 10 Hz and what bound it at each, one scenario a line
    timing.json     how long the planner thought (`eval.closed_loop.timing`): the one file that differs between runs
    films/          with `films`: the best and the worst drive of each family, or all, as animated WebP (`eval.closed_loop.film`)

Measures come from `nsdrive.world.measure`, each as a number with its unit; the score from `eval.score`. A scenario that cannot
be driven has a score of 0 and 0 in every term, and is named.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eval.closed_loop.film import FilmJob, Films, check_films, choose, kept_for_film, make_films
from eval.closed_loop.timing import TIMING, Timed, lines, read_timing, timing_json
from eval.manoeuvres.judge import judge
from eval.manoeuvres.judge import table as manoeuvre_lines
from eval.score import CLOSED_LOOP_SCORE_VERSION, SHORT, TERMS, expert_of, score
from nsdrive import __version__
from nsdrive.config import to_plain
from nsdrive.dataset import json_line, write_atomically
from nsdrive.output_folder import claim_folder, settle
from nsdrive.parallel import check_workers, in_order
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.source import checksum
from nsdrive.vla.prompt import parse_answer
from nsdrive.world.decision import KEPT_PLAN, LATE_ANSWER, NO_WAY
from nsdrive.world.measure import clearance_m, comfort, off_road_m, overlap, time_to_collision_s
from nsdrive.world.simulate import simulate
from nsdrive.world.types import Planner, Rollout
from nsdrive.world.vehicle import ego_box

RESULTS, ROLLOUTS = "results.json", "rollouts.jsonl"
ANSWERS = ("asked", "late", "unreadable")
KEPT = ".scenarios"  # finished scenarios of a run that is not yet finished, for --resume


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Which scenarios, who drives, and whether the others answer."""

    scenarios: Any = "synthetic"
    planner: Any = "idm"
    agents: Literal["replay", "reactive"] = "replay"
    start_tick: int | None = None  # None: as early as the scenario allows
    duration_s: float | None = None  # None: to the scenario's end
    films: Films = "none"  # best_and_worst: of each family; some seconds a film


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """All scenarios' measures, and the scenarios that failed: each with its `item`, `scenario_type` and `error`. timing: as in
    timing.json. films: a row for each, with its `file` in the run's folder."""

    rows: tuple[Mapping[str, Any], ...]
    failures: tuple[Mapping[str, Any], ...]
    timing: Mapping[str, Any] | None = None
    films: tuple[Mapping[str, Any], ...] = ()

    def table(self) -> str:
        """Score and terms, by scenario type; then who failed. Of named manoeuvres, the verdict on each."""
        if verdicts := manoeuvre_lines(self.rows):
            return verdicts
        groups = summary(self.rows, self.failures)
        width = max(len(name) for name in groups)
        heads = ["n", "failed", "hit", "score", *SHORT.values()]
        printed = [f"{'scenario type':{width}s} " + " ".join(f"{head:>9s}" for head in heads)]
        for name, group in groups.items():
            counts = [f"{group[key]:9d}" for key in ("n", "failed", "collisions")]
            shares = [f"{value:9.4f}" for value in (group["score"], *(group["terms"][term] for term in TERMS))]
            printed.append(f"{name:{width}s} " + " ".join([*counts, *shares]))
        for note in sorted({note for row in self.rows for note in row["notes"]}):
            ticks = [row["notes"][note] for row in self.rows if note in row["notes"]]
            printed.append(f"noted at {sum(ticks)} ticks of {len(ticks)} scenarios: {note}")
        if counted := groups["all"].get("answers"):
            printed.append("answers: " + ", ".join(f"{counted[name]} {name}" for name in ANSWERS))
        printed += lines(self.timing) if self.timing else []
        for row in self.films:
            made = row["file"] if row["error"] is None else f"not made: {row['error']}"
            printed.append(f"film of {row['family']}, {row['which']} ({row['score']:.4f}): {made}")
        return "\n".join(printed)


def summary(rows: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For "all" and for each scenario type: n, failed, collisions (scenarios in which anything was touched), and the means of
    score and terms over all n, a failed scenario counting 0. Failed before its type was known: type "not loaded". answers, of a
    planner that is asked: how many, how many of them late, how many not to be read."""
    types = sorted({str(row["scenario_type"]) for row in (*rows, *failures)})
    groups = {}
    for name in ("all", *types):
        driven = [row for row in rows if name in ("all", row["scenario_type"])]
        failed = sum(name in ("all", row["scenario_type"]) for row in failures)
        n = len(driven) + failed
        groups[name] = {
            "n": n,
            "failed": failed,
            "collisions": sum(len(row["collided_with"]) > 0 for row in driven),
            "score": round(sum(row["score"] for row in driven) / n, 4) if n else 0.0,
            "terms": {term: round(sum(row["terms"][term] for row in driven) / n, 4) if n else 0.0 for term in TERMS},
        }
        if asked := [row["answers"] for row in driven if row.get("answers")]:
            groups[name]["answers"] = {key: sum(row[key] for row in asked) for key in ANSWERS}
    return groups


def closed_loop(
    config: SimulateConfig,
    make_planner: Callable[[], Planner],
    make_reference: Callable[[], Planner],
    *,
    out: Path,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    weights: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ClosedLoop:
    """Drive every scenario and write `out`. A scenario that cannot be driven is a failure with its line, and counted.

    make_reference: the planner whose progress a generated scene expects (see `eval.score`). weights: of a planner that is a model,
    what tells its training from another. A finished run that is resumed is read, not driven again. ValueError where the source
    is unusable or empty, `out` is taken, or --resume meets a folder begun with other settings, scenarios or weights.
    """
    source = open_source(config.scenarios.name, config.scenarios.config)
    items = list(source.items())
    if not items:
        raise ValueError(f"The source '{source.name}' holds no scenarios: nothing to drive")
    check_workers(workers)
    if config.films != "none":
        check_films()
    is_finished = resume and (out / RESULTS).is_file()
    if not is_finished:
        make_planner()  # a model that is not there leaves nothing behind
    claim_folder(out, resume=resume, overwrite=overwrite, marker="config.json")
    settings = {"nsdrive": __version__, "config": to_plain(config), "weights": weights}
    settle(out, "config.json", {**settings, "items": checksum(items)})
    if is_finished:
        shutil.rmtree(out / KEPT, ignore_errors=True)
        progress(len(items), len(items))
        return _finished(out)
    jobs = [
        Drive(
            item=item,
            config=config,
            make_planner=make_planner,
            make_reference=make_reference,
            kept=out / KEPT / f"{number:06d}.json",
        )
        for number, item in enumerate(items)
    ]
    driven = []
    for done, row in enumerate(in_order(drive, jobs, workers), start=1):
        driven.append(row)
        progress(done, len(jobs))
    rows = tuple(r["measures"] for r in driven if r["error"] is None)
    failures = tuple(
        {"item": r["item"], "scenario_type": r["scenario_type"], "error": r["error"]}
        for r in driven
        if r["error"] is not None
    )
    write_atomically(out / ROLLOUTS, "".join(json_line(r["rollout"]) for r in driven if r["error"] is None))
    timing = timing_json([(r["item"], r["timing"]) for r in driven if r["error"] is None])
    write_atomically(out / TIMING, timing)
    drives = {r["item"]: r["film"] for r in driven if r["error"] is None}
    films = make_films(
        [
            FilmJob(
                chosen=chosen,
                source=config.scenarios,
                agents=config.agents,
                planner=next(row["planner"] for row in rows if row["item"] == chosen.item),
                drive=drives[chosen.item],
                out=out,
            )
            for chosen in choose(rows, config.films)
        ],
        workers,
    )
    results = {
        "nsdrive": __version__,
        "score_version": CLOSED_LOOP_SCORE_VERSION,
        "config": to_plain(config),
        "summary": summary(rows, failures),
        "scenarios": rows,
        "failures": failures,
        **({"films": films} if films else {}),
    }
    write_atomically(out / RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(out / KEPT, ignore_errors=True)
    return _finished(out)


def _finished(out: Path) -> ClosedLoop:
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    return ClosedLoop(
        rows=tuple(results["scenarios"]),
        failures=tuple(results["failures"]),
        timing=read_timing(out),
        films=tuple(results.get("films", ())),
    )


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
    noted = Counter(note for p in rollout.plans for note in (*p.notes, *(p.decision.notes if p.decision else ())))
    return {
        "scenario": rollout.scenario.scenario_id,
        "scenario_type": rollout.scenario.scenario_type,
        "family": rollout.scenario.notes.get("family"),  # of a generated scenario
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
        "notes": dict(sorted(noted.items())),  # what the planner said of its input -> ticks
        **({"answers": answers} if (answers := answers_of(rollout)) else {}),
    }


def answers_of(rollout: Rollout) -> dict[str, int] | None:
    """ANSWERS of a planner that is asked now and then (`Plan.said`), None of one that is not. Late: it took effect at a later
    tick. Unreadable: the plan before was kept, or the ego stopped, because of what it said."""
    asked = [p for p in rollout.plans if p.said is not None]
    if not asked:
        return None
    late = sum(any(note.startswith(LATE_ANSWER) for note in p.notes) for p in asked)
    bad = sum(
        any(note.startswith(KEPT_PLAN) for note in p.notes)
        or (any(note.startswith(NO_WAY) for note in p.notes) and parse_answer(p.said or "").waypoints_ego_m is None)
        for p in asked
    )
    return dict(zip(ANSWERS, (len(asked), late, bad), strict=True))


@dataclass(frozen=True, kw_only=True)
class Drive:
    """One scenario for one worker."""

    item: str
    config: SimulateConfig
    make_planner: Callable[[], Planner]
    make_reference: Callable[[], Planner]
    kept: Path


def drive(job: Drive) -> dict[str, Any]:
    """One scenario's measures and rollout, or the line that says why there are none; kept for --resume.

    ValueError where what is kept is of another scenario.
    """
    if job.kept.is_file():
        kept: dict[str, Any] = json.loads(job.kept.read_text(encoding="utf-8"))
        if kept["item"] != job.item:
            raise ValueError(
                f"{job.kept} is of '{kept['item']}', not of '{job.item}': use --overwrite, or choose another --out"
            )
        return kept
    config = job.config
    row: dict[str, Any]
    scenario_type = "not loaded"
    try:
        scenario = open_source(config.scenarios.name, config.scenarios.config).load(job.item)
        scenario_type = scenario.scenario_type
        timed = Timed(planner=job.make_planner())
        rollout = simulate(
            scenario,
            timed,
            start_tick=config.start_tick,
            duration_s=config.duration_s,
            agents=config.agents,
        )
        ticks = len(rollout.states) - 1
        expert = expert_of(scenario, rollout.start_tick, ticks, job.make_reference, agents=config.agents)
        scored = score(rollout, expert)
        measures = {"item": job.item, **measures_of(rollout), **scored.to_row()}
        if judged := judge(rollout, scored):
            measures["manoeuvre"] = judged.to_row()
        row = {
            "item": job.item,
            "error": None,
            "measures": measures,
            "rollout": told(rollout),
            "timing": timed.to_row(),
            "film": kept_for_film(rollout) if config.films != "none" else None,
        }
    except ValueError as error:
        row = {"item": job.item, "scenario_type": scenario_type, "error": " ".join(str(error).split())}
    write_atomically(job.kept, json_line(row))
    return row


def told(rollout: Rollout) -> dict[str, Any]:
    """states: rows of x_m, y_m, heading_rad, speed_mps, accel_mps2, steering_rad (global, 10 Hz); binding: a rule for each.
    said, of a planner that speaks: its words, with the row of the state that they were said at."""
    states = [[*s.pose, s.speed_mps, s.accel_mps2, s.steering_rad] for s in rollout.states]
    said = [{"state": row, "text": p.said} for row, p in enumerate(rollout.plans) if p.said is not None]
    return {
        "scenario": rollout.scenario.scenario_id,
        "planner": rollout.planner,
        **({"said": said} if said else {}),
        "states": [[round(float(v), 4) for v in state] for state in states],
        "binding": [None if p.decision is None else p.decision.binding_constraint.rule for p in rollout.plans],
    }


def _rounded(value: Any) -> float | None:
    return round(float(value), 4) + 0.0 if np.isfinite(value) else None
