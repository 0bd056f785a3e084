"""Any scenario as a nuPlan log and map, which nuPlan's own code opens, simulates and scores.

    written = write_scenario(scenario, Path("out"), IdmPlanner())
    # out/logs/syn-red_light-000008-s0.db, out/maps/<map>/1.0/map.gpkg, out/maps/nuplan-maps-v1.0.json

A simulation by nuPlan's code starts at the scenario's tick HISTORY_TICKS, as ours does: the scenario's tag sits three
seconds later, because nuPlan's scenario types begin three seconds before their tag and last fifteen. (A type that nuPlan
does not know begins at its tag and lasts twenty.)

What a scenario does not have is added, and said here: one second before it begins (the ego on the arc it drives at tick 0,
the others at constant velocity), what comes after its end up to a second after that run (the others at constant velocity,
lights as they were last), and the ego's own future where it is not recorded (the given planner drives it; without a
planner it keeps its speed and direction). Rows come at 20 Hz, the even ones being the scenario's own ticks.

The format has no place for brake lights and indicators of others, for steering angles, marking colours and bus lanes.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nsdrive.scenarios.nuplan.alternate import alternated
from nsdrive.scenarios.nuplan.geopackage import SCENERY_KEY, UNKNOWN_KEY
from nsdrive.scenarios.nuplan.types import SCENARIO_TYPES
from nsdrive.scenarios.nuplan.write_gpkg import write_geopackage
from nsdrive.scenarios.nuplan.write_log import row_token, write_log
from nsdrive.scenarios.nuplan.write_map import EPSG, ORIGIN_UTM_M, write_map
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, EgoState, ObjectFrame, Planner, Scenario
from nsdrive.world.vehicle import PACIFICA

LEAD_IN_S = 1.0  # nuPlan fills a history of 2.1 s before the simulation's start, 0.1 s more than ours
TYPED = (3.0, 15.0)  # nuplan_scenario_mapping.yaml: a scenario begins so long before its tag and lasts so long [s]
UNTYPED = (0.0, 20.0)  # the devkit's defaults, for a tag that is none of nuPlan's types
LEAD_OUT_S = 1.0  # two short scenes after the tagged one: nuPlan leaves out a log's first two and last two scenes
MAPS_FILE = "nuplan-maps-v1.0.json"
MAP_VERSION = "1.0"
OFFICIAL_MAPS = {  # name: (version, EPSG); nuPlan's code opens all four, whatever map a log is on
    "sg-one-north": ("9.17.1964", 32648),
    "us-ma-boston": ("9.12.1817", 32619),
    "us-nv-las-vegas-strip": ("9.15.1915", 32611),
    "us-pa-pittsburgh-hazelwood": ("9.17.1937", 32617),
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """Where a scenario went, and its token: what nuPlan's code calls it."""

    log: Path
    map: Path
    token: str


@dataclass(frozen=True, kw_only=True)
class LogTick:
    """One row of the 20 Hz log. time_s: of the scenario, negative before it began."""

    time_s: float
    ego: EgoState
    objects: ObjectFrame
    lights: Mapping[str, str]


def write_scenario(scenario: Scenario, folder: Path, planner: Planner | None = None) -> Written:
    """Write log and map; nothing that is there is left half changed. planner: who drives on where the ego's log ends.

    Raises ScenarioError, naming the scenario, for a map or a route that nuPlan's format cannot hold, and an ego that the
    planner cannot drive on.
    """
    to = places(scenario, folder)
    shaped = alternated(scenario)
    map_name = to.map.parents[1].name
    epsg, origin_m = _frame(scenario)
    try:
        ticks = log_ticks(shaped, planner)
        fids = write_map(shaped.lane_map, to.map, epsg=epsg, origin_m=origin_m, about=_about(scenario))
    except ValueError as error:
        raise ScenarioError(f"{scenario.scenario_id}: not written for nuPlan: {error}") from error
    route = fids.route(_two_or_more(shaped))
    if len(route) < 2:
        raise ScenarioError(
            f"{scenario.scenario_id}: its route has {len(route)} roadblocks on the map; nuPlan's planners need 2 or more."
        )
    _register_map(folder / "maps", map_name)
    write_log(
        to.log,
        ticks,
        map_name=map_name,
        epsg=epsg,
        origin_m=origin_m,
        route=route,
        goal_m=scenario.goal_m,
        light_fids=fids.lanes,
        scenario_type=scenario.scenario_type,
        tagged=_tagged_row(scenario),
        scenes=_scenes(len(ticks)),
    )
    return to


def _about(scenario: Scenario) -> dict[str, str]:
    """What nuPlan's format has no place for, as rows of the map's meta table, of which its code reads its own only."""
    return {SCENERY_KEY: str(scenario.scenery_seed), UNKNOWN_KEY: " ".join(sorted(scenario.unknown))}


def places(scenario: Scenario, folder: Path) -> Written:
    """Where a scenario goes below a folder, and its token. Its log is there if and only if all of it is."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", scenario.scenario_id)
    return Written(
        log=folder / "logs" / f"{name}.db",
        map=folder / "maps" / f"nsdrive-{name}" / MAP_VERSION / "map.gpkg",
        token=row_token(name, "lidar_pc", _tagged_row(scenario)).hex(),
    )


def _timing(scenario: Scenario) -> tuple[float, float]:
    return TYPED if scenario.scenario_type in SCENARIO_TYPES else UNTYPED


def _tagged_row(scenario: Scenario) -> int:
    """The row to tag, so that a run of nuPlan's code begins at tick HISTORY_TICKS."""
    tag_after_s, _ = _timing(scenario)
    return round((LEAD_IN_S + HISTORY_TICKS * INTERVAL_S + tag_after_s) / (INTERVAL_S / 2))


def _frame(scenario: Scenario) -> tuple[int, tuple[float, float]]:
    """Projection (EPSG) and where the scenario's (0, 0) lies in it: nuPlan's own are in their city's UTM zone already."""
    if scenario.source == "nuplan":
        _, epsg = OFFICIAL_MAPS.get(scenario.lane_map.name.removeprefix("nuplan-"), ("", EPSG))
        return epsg, (0.0, 0.0)
    return EPSG, ORIGIN_UTM_M


def _two_or_more(scenario: Scenario) -> tuple[str, ...]:
    """The route; one of a single roadblock goes on into the next, or begins in the one before."""
    lanes = scenario.lane_map.lanes
    route = scenario.route_roadblock_ids
    if len(route) == 1:
        inside = [lane for lane in lanes.values() if lane.roadblock_id == route[0]]
        after = [lanes[n].roadblock_id for lane in inside for n in lane.outgoing]
        before = [lanes[n].roadblock_id for lane in inside for n in lane.incoming]
        route = (*before[:1], *route) if not after else (*route, after[0])
    return route


def log_ticks(scenario: Scenario, planner: Planner | None) -> tuple[LogTick, ...]:
    """The scenario at 20 Hz, from LEAD_IN_S before it to at least what a run of nuPlan's code needs."""
    _, run_s = _timing(scenario)
    last = max(scenario.n_ticks - 1, HISTORY_TICKS + round((run_s + LEAD_OUT_S) / INTERVAL_S))
    longer = lengthened(scenario, last)
    egos = [*_before(scenario), *_driven(longer, planner)]
    lead = len(egos) - longer.n_ticks
    frames = [*(_moved(scenario.frames[0], k * INTERVAL_S) for k in range(-lead, 0)), *longer.frames]
    lights = [*[scenario.lights[0]] * lead, *longer.lights]
    rows = []
    for k in range(2 * len(egos) - 1):
        a, b = k // 2, (k + 1) // 2
        rows.append(
            LogTick(
                time_s=(k / 2 - lead) * INTERVAL_S,
                ego=egos[a] if a == b else _halfway(egos[a], egos[b]),
                objects=frames[a] if a == b else _between(frames[a], frames[b]),
                lights=lights[a],
            )
        )
    return tuple(rows)


def lengthened(scenario: Scenario, last_tick: int) -> Scenario:
    """The scenario up to last_tick: beyond its end, objects at constant velocity and lights as they were."""
    end = scenario.n_ticks - 1
    added = range(1, last_tick - end + 1)
    return replace(
        scenario,
        frames=(*scenario.frames, *(_moved(scenario.frames[-1], k * INTERVAL_S) for k in added)),
        lights=(*scenario.lights, *(scenario.lights[-1] for _ in added)),
    )


def _driven(scenario: Scenario, planner: Planner | None) -> tuple[EgoState, ...]:
    """The ego at every tick of the scenario: as recorded, then as the planner drives."""
    recorded = scenario.ego_log[: scenario.n_ticks]
    missing = scenario.n_ticks - len(recorded)
    if missing and planner is not None:
        rollout = simulate(scenario, planner, start_tick=len(recorded) - 1)
        return (*recorded[:-1], *rollout.states)
    return (*recorded, *(_arc(replace(recorded[-1], steering_rad=0.0), k * INTERVAL_S) for k in range(1, missing + 1)))


def _before(scenario: Scenario) -> list[EgoState]:
    return [_arc(scenario.ego_log[0], k * INTERVAL_S) for k in range(-round(LEAD_IN_S / INTERVAL_S), 0)]


def _arc(state: EgoState, dt_s: float) -> EgoState:
    """The state dt_s later (or earlier) at constant speed and steering."""
    turned = state.speed_mps * dt_s * math.tan(state.steering_rad) / PACIFICA.wheel_base_m
    chord = state.speed_mps * dt_s * float(np.sinc(turned / (2 * math.pi)))
    along = state.heading_rad + turned / 2
    return replace(
        state,
        time_s=round(state.time_s + dt_s, 6),
        x_m=state.x_m + chord * math.cos(along),
        y_m=state.y_m + chord * math.sin(along),
        heading_rad=_wrapped(state.heading_rad + turned),
        accel_mps2=0.0,
    )


def _moved(frame: ObjectFrame, dt_s: float) -> ObjectFrame:
    boxes = frame.boxes.copy()
    boxes[:, :2] += frame.velocities_mps * dt_s
    return replace(frame, boxes=boxes)


def _halfway(a: EgoState, b: EgoState) -> EgoState:
    return EgoState(
        time_s=(a.time_s + b.time_s) / 2,
        x_m=(a.x_m + b.x_m) / 2,
        y_m=(a.y_m + b.y_m) / 2,
        heading_rad=_wrapped(a.heading_rad + _wrapped(b.heading_rad - a.heading_rad) / 2),
        speed_mps=(a.speed_mps + b.speed_mps) / 2,
        accel_mps2=(a.accel_mps2 + b.accel_mps2) / 2,
        steering_rad=(a.steering_rad + b.steering_rad) / 2,
    )


def _between(a: ObjectFrame, b: ObjectFrame) -> ObjectFrame:
    """Who is there before and after, half-way."""
    rows = {track_id: k for k, track_id in enumerate(b.ids)}
    both = [(k, rows[track_id]) for k, track_id in enumerate(a.ids) if track_id in rows]
    first, second = a.take([i for i, _ in both]), b.take([j for _, j in both])
    boxes = (first.boxes + second.boxes) / 2
    turn = (second.boxes[:, 2] - first.boxes[:, 2] + math.pi) % (2 * math.pi) - math.pi
    boxes[:, 2] = (first.boxes[:, 2] + turn / 2 + math.pi) % (2 * math.pi) - math.pi
    return replace(first, boxes=boxes, velocities_mps=(first.velocities_mps + second.velocities_mps) / 2)


def _wrapped(angle_rad: float) -> float:
    return (angle_rad + math.pi) % (2 * math.pi) - math.pi


def _scenes(rows: int) -> tuple[range, ...]:
    """Rows of the log's five scenes. nuPlan finds tags only in the middle one."""
    lead, out = round(LEAD_IN_S / INTERVAL_S), round(LEAD_OUT_S / INTERVAL_S)
    cuts = (0, lead, 2 * lead, rows - out, rows - out // 2, rows)
    return tuple(range(a, b) for a, b in itertools.pairwise(cuts))


def _register_map(maps: Path, name: str) -> None:
    """Name the map in the list of maps, which also names nuPlan's four, as empty ones."""
    from nsdrive.dataset import write_atomically

    for official, (version, epsg) in OFFICIAL_MAPS.items():
        stub = maps / official / version / "map.gpkg"
        if not stub.exists():
            write_geopackage(stub, {}, epsg=epsg)
    listed = {official: {"version": version, "layers": {}} for official, (version, _) in OFFICIAL_MAPS.items()}
    if (maps / MAPS_FILE).exists():
        listed |= json.loads((maps / MAPS_FILE).read_text(encoding="utf-8"))
    listed[name] = {"version": MAP_VERSION, "layers": {}}
    write_atomically(maps / MAPS_FILE, json.dumps(dict(sorted(listed.items())), indent=1) + "\n")
