"""What a sample knows of its scene, as the facts that questions are made from (`data_gen.perception_questions`).

Boxes, drawn pixels, the lead and the light's state are stored with the sample. Which head shows that light and which lane is
ours are on the scenario's map, and are found where the scenario is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from data_gen.sample import image_source
from nsdrive.dataset import Sample, json_line
from nsdrive.trace.trace import LIGHT_WORDS
from nsdrive.world.geometry import to_ego, wrap_angle
from nsdrive.world.lanes_driven import lanes_holding
from nsdrive.world.types import FloatArray, Scenario

ALONG_RAD = 0.35  # chosen by us: who is turned by more than 20 degrees against a lane is not simply in it


def facts_of(sample: Sample, scenario: Scenario | None) -> dict[str, Any]:
    """Facts of all cameras of a sample. ValueError where it does not have the boxes and pixels that they come from."""
    extra = sample.extra
    if not isinstance(extra.get("objects"), list) or not isinstance(extra.get("seen"), Mapping):
        raise ValueError(
            f"Sample {sample.sample_id[:80]} has no `objects` or no `seen`, the boxes and pixels that questions are made from: "
            "it is not nsdrive's, or an older nsdrive's. Generate the dataset again"
        )
    facts = {
        "cameras": list(sample.rig.get("cameras", ())),
        "seen": {camera: dict(things) for camera, things in extra["seen"].items()},
        "objects": extra["objects"],
    }
    try:
        if sample.trace.get("steps"):
            facts["lead"] = _lead(sample)
        if scenario is not None:
            facts |= _light(sample, scenario) | _lane(sample, scenario)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"Sample {sample.sample_id[:80]}: its trace or anchor is misshapen: {error}") from None
    return facts


def with_scenes(
    samples: Iterable[Sample], scenes: Callable[[Sample], Scenario] | None
) -> Iterator[tuple[Sample, Scenario | None]]:
    """Each sample with its scenario, None where that is not at hand. Several samples in a row are of one, loaded once."""
    last: tuple[str, Scenario | None] | None = None
    for sample in samples:
        key = json_line({"item": sample.extra.get("item"), "edit": sample.extra.get("edit")})
        if last is None or last[0] != key:
            last = (key, _scene(scenes, sample))
        yield sample, last[1]


def _scene(scenes: Callable[[Sample], Scenario] | None, sample: Sample) -> Scenario | None:
    if scenes is None:
        return None
    try:
        return scenes(sample)
    except (ValueError, OSError, KeyError):  # a log that is not on this machine, or only in part
        return None


def facts_for(facts: Mapping[str, Any], cameras: tuple[str, ...]) -> dict[str, Any]:
    """The part of a rig's facts that these cameras have to do with."""
    seen = {name: dict(facts["seen"].get(name, {})) for name in cameras}
    shown = {thing for things in seen.values() for thing in things}
    return {
        **facts,
        "cameras": [camera for camera in facts["cameras"] if camera["name"] in cameras],
        "seen": seen,
        "objects": [row for row in facts["objects"] if row["id"] in shown],
    }


def _lead(sample: Sample) -> dict[str, Any] | None:
    """The nearest of what the planner followed at the anchor, by the scenario's id."""
    leads = [c for c in sample.trace["steps"][0]["constraints"] if c["rule"] == "lead" and c["about"] is not None]
    if not leads:
        return None
    nearest = min(leads, key=lambda c: c["inputs"]["gap_m"])
    return {
        "id": str(sample.trace_names.get(nearest["about"], nearest["about"])),
        "gap_m": float(nearest["inputs"]["gap_m"]),
    }


def _light(sample: Sample, scenario: Scenario) -> dict[str, Any]:
    """The head that shows the light of the trace: the nearest one ahead on the route that a camera sees."""
    if "traffic_lights" in scenario.unknown or image_source(sample) == "recorded":
        return {}  # nobody knows where the heads on a photograph are
    state = sample.trace["scene"]["light"]
    if state is None:
        return {"light": {"state": None, "head": None}}
    lights = scenario.lights[int(sample.anchor["tick"])]
    pose = np.array(sample.anchor["pose_global"], dtype=float)
    route, lanes = set(scenario.route_roadblock_ids), scenario.lane_map.lanes
    seen = {thing for things in sample.extra["seen"].values() for thing in things}
    best, found = np.inf, None
    for signal in scenario.lane_map.signals:
        mine = [c for c in signal.connector_ids if c in lanes and lanes[c].roadblock_id in route]
        states = [LIGHT_WORDS[lights[c]] for c in mine if lights.get(c) in LIGHT_WORDS]
        x, y = to_ego(np.array([[signal.x_m, signal.y_m]]), pose)[0]
        name = f"signal:{signal.signal_id}"
        if states and x > 0.0 and np.hypot(x, y) < best and name in seen:
            best, found = float(np.hypot(x, y)), (name, states[0])
    if found is None or found[1] != state:
        return {}
    return {"light": {"state": state, "head": found[0]}}


def _lane(sample: Sample, scenario: Scenario) -> dict[str, Any]:
    """Our lane among those of our direction, where we are in one lane, on a road, and along it."""
    lanes = scenario.lane_map.lanes
    pose = np.array(sample.anchor["pose_global"], dtype=float)
    inside = [i for i in lanes_holding(scenario.lane_map, pose[None, :2])[0] if lanes[i].lane_type != "bike"]
    if len(inside) != 1 or lanes[inside[0]].is_connector or _turned(lanes[inside[0]].centerline, pose) > ALONG_RAD:
        return {}
    left, right = (_beside(scenario, inside[0], side) for side in ("left_neighbor", "right_neighbor"))
    return {"lane": {"number": left + 1, "of": left + 1 + right}}


def _beside(scenario: Scenario, lane_id: str, side: str) -> int:
    """How many lanes for cars there are on that side."""
    lanes, n, passed = scenario.lane_map.lanes, 0, {lane_id}
    at = getattr(lanes[lane_id], side)
    while at is not None and at in lanes and at not in passed:
        passed.add(at)
        n += lanes[at].lane_type != "bike"
        at = getattr(lanes[at], side)
    return n


def _turned(centerline: FloatArray, pose: FloatArray) -> float:
    """How far a pose is turned against the nearest piece of a line."""
    at = int(np.argmin(np.hypot(*(centerline - pose[:2]).T)))
    a, b = centerline[max(0, at - 1)], centerline[min(len(centerline) - 1, at + 1)]
    return abs(float(wrap_angle(np.arctan2(b[1] - a[1], b[0] - a[0]) - pose[2])))
