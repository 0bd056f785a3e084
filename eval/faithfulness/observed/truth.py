"""What is so in a sample, in the words of a text: the surroundings, the motion that the text explains, the planner's decisions.

Everything here comes from the sample alone: `trace` is what the planner recorded (`nsdrive.trace.record`), `objects` and `seen`
are what was around and what a camera saw of it, `future` (or `explained`) is the motion. What a sample lacks is None, and
nothing can be said of it: older data have no `objects`, samples of others have no trace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import shapely

from nsdrive.dataset import Sample
from nsdrive.trace.record import from_json
from nsdrive.trace.rounding import of_record, shortened
from nsdrive.trace.trace import KIND_WORDS, N_STEPS, SECTORS, STEP_S, Trace
from nsdrive.world.decision import Constraint
from nsdrive.world.geometry import box_corners
from nsdrive.world.rules import RULES, IdmParameters
from nsdrive.world.types import INTERVAL_S
from nsdrive.world.vehicle import ego_box

TICKS = round(STEP_S / INTERVAL_S)
# What the teachers' laws differ in from `IdmParameters`. A dataset's manifest says it better: `parameters_of`.
TEACHERS: dict[str, IdmParameters] = {
    "idm": IdmParameters(),
    "pdm_closed": IdmParameters(target_speed_mps=15.0, accel_max_mps2=1.5, exponent=10.0, clamp_needed_gap=False),
    "pdm_lanes": IdmParameters(
        target_speed_mps=15.0,
        accel_max_mps2=1.75,
        exponent=10.0,
        yield_margin_s=0.5,
        emergency_decel_mps2=6.0,
        emergency_speed_mps=60.0,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A tracked object at the anchor. distance_m: between the nearest points of its box and the ego's. bearing_rad: of its centre
    from the ego's, left positive. cameras: those that see it."""

    thing_id: str
    kind: str
    distance_m: float
    bearing_rad: float
    sector: str
    speed_mps: float
    cameras: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A rule as the planner evaluated it. constraint: its `about` is the scenario's id; numbers as a text would print them.
    mark: binds, ties or ""."""

    constraint: Constraint
    mark: str

    @property
    def key(self) -> tuple[str, str | None]:
        return self.constraint.rule, self.constraint.about


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Of one sample. trace: all that was recorded, with its own names, and ids: what those stand for. around: None where it is not
    known. listed: what the planner's text lists, nearest first. later: (kind, id) of what comes later. steps: every evaluation of
    each of the ten times. states: speed, acceleration, how far since the anchor [m], of the motion that the text explains, at the
    eleven half seconds. turned_deg: how far it turns in five seconds. parameters: of the laws, None where nobody knows them."""

    sample: Sample
    trace: Trace | None
    ids: Mapping[str, str]
    around: tuple[Thing, ...] | None
    listed: tuple[Thing, ...]
    later: tuple[tuple[str, str], ...]
    steps: tuple[tuple[Evaluated, ...], ...]
    states: tuple[tuple[float, float, float], ...] | None
    turned_deg: float | None
    parameters: IdmParameters | None

    @cached_property
    def told(self) -> Trace | None:
        """The trace as printed in detail: with choices, and news of lanes. A brief text never asks for it."""
        return None if self.trace is None else of_record(self.trace)

    @cached_property
    def text(self) -> Trace | None:
        """What a detailed text keeps of that, which may be too long otherwise."""
        return None if self.told is None else shortened(self.told)

    @cached_property
    def needed(self) -> tuple[frozenset[tuple[str, str | None]], ...]:
        """Keys of the evaluations that a detailed text states, by step: what is far from binding it may leave out."""
        steps = () if self.text is None else self.text.steps
        return tuple(frozenset((c.rule, _id(c.about, self.ids)) for c in step.constraints) for step in steps)

    def wanted(self, level: str) -> frozenset[str]:
        """The scenario's ids of the objects that the planner's text of this level lists."""
        if self.trace is None:
            return frozenset()
        named = {phase.about for phase in self.trace.phases}
        objects = self.text.objects if level == "detailed" and self.text is not None else self.trace.objects
        names = [o.name for o in objects if level == "detailed" or o.name in named]
        return frozenset(self.ids.get(name, name) for name in names)

    def thing(self, thing_id: str) -> Thing | None:
        return next((t for t in (*self.listed, *(self.around or ())) if t.thing_id == thing_id), None)

    def say(self, thing_id: str | None) -> str:
        """A few words for a thing: what and where it is, for one who looks at the picture."""
        if thing_id is None:
            return "nobody in sight"
        thing = self.thing(thing_id)
        return thing_id if thing is None else f"the {thing.kind} {thing.distance_m:.1f} m {thing.sector} ({thing_id})"


def truth_of(sample: Sample, parameters: IdmParameters | None = None) -> Truth:
    """What is so in a sample. Never raises: what is misshapen is not known. parameters: of the planner's laws, None takes the
    defaults of a known teacher."""
    return _truth_of(sample, parameters or TEACHERS.get(sample.planner))


@lru_cache(maxsize=8)  # several answers to one sample come one after the other
def _truth_of(sample: Sample, parameters: IdmParameters | None) -> Truth:
    ids = {str(name): str(thing_id) for name, thing_id in dict(sample.trace_names).items()}
    try:
        trace: Trace | None = from_json(sample.trace)
        steps = [] if trace is None else _evaluated(trace, ids)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):
        trace, steps = None, []
    listed = () if trace is None else tuple(_listed(trace, ids))
    states, turned = _motion(sample)
    return Truth(
        sample=sample,
        trace=trace,
        ids=ids,
        around=_around(sample, {t.thing_id: t for t in listed}),
        listed=listed,
        later=()
        if trace is None
        else tuple((o.kind, ids.get(o.name, o.name)) for o in trace.objects if o.distance_m is None),
        steps=tuple(steps),
        states=states,
        turned_deg=turned,
        parameters=parameters,
    )


def parameters_of(config: Mapping[str, Any]) -> IdmParameters | None:
    """The constants of the planner's laws from a dataset's manifest["config"]; None where it does not tell.

    A config names its planner alone, or a mapping of its settings with the planner's `name`.
    """
    planner = config.get("planner")
    if isinstance(planner, str):
        return TEACHERS.get(planner)
    if not isinstance(planner, Mapping):
        return None
    known = TEACHERS.get(str(planner.get("name")), IdmParameters())
    given: dict[str, Any] = {k: v for k, v in planner.items() if k in vars(known) and isinstance(v, int | float)}
    return replace(known, **given) if given or planner.get("name") in TEACHERS else None


def sectors_at(bearing_rad: float, slack_rad: float) -> frozenset[str]:
    """The sectors that a bearing may be said to lie in, `slack_rad` beyond their borders allowed."""
    return frozenset(SECTORS[round((bearing_rad + off) / (math.pi / 4.0)) % 8] for off in (-slack_rad, 0.0, slack_rad))


def _listed(trace: Trace, ids: Mapping[str, str]) -> list[Thing]:
    """The objects of the planner's own text, with its numbers."""
    return [
        Thing(
            thing_id=ids.get(o.name, o.name),
            kind=o.kind,
            distance_m=o.distance_m,
            bearing_rad=SECTORS.index(o.sector) * math.pi / 4.0,
            sector=o.sector,
            speed_mps=o.speed_mps,
            cameras=o.cameras,
        )
        for o in trace.objects
        if o.distance_m is not None and o.sector is not None and o.speed_mps is not None
    ]


def _around(sample: Sample, listed: Mapping[str, Thing]) -> tuple[Thing, ...] | None:
    """Everything around; what the planner's text lists has that text's numbers."""
    try:
        rows = sample.extra["objects"]
        seen_by: dict[str, list[str]] = {}
        for camera, things in sample.extra["seen"].items():
            for thing_id in things:
                seen_by.setdefault(thing_id, []).append(camera)
        boxes = np.array(
            [[r["x_m"], r["y_m"], r["heading_rad"], r["length_m"], r["width_m"]] for r in rows], dtype=float
        ).reshape(-1, 5)
        if not np.isfinite(boxes).all():
            return None
        ego = ego_box(np.zeros(3))[0]
        bearings = np.arctan2(boxes[:, 1] - ego[1], boxes[:, 0] - ego[0])
        distances = shapely.distance(shapely.Polygon(box_corners(ego[None])[0]), shapely.polygons(box_corners(boxes)))
        things = []
        for row, distance, bearing in zip(rows, distances, bearings, strict=True):
            things.append(
                Thing(
                    thing_id=str(row["id"]),
                    kind=KIND_WORDS[row["kind"]],
                    distance_m=float(distance),
                    bearing_rad=float(bearing),
                    sector=SECTORS[round(float(bearing) / (math.pi / 4.0)) % 8],
                    speed_mps=float(row["speed_mps"]),
                    cameras=tuple(seen_by.get(row["id"], ())),
                )
            )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None
    bearing_of = {t.thing_id: t.bearing_rad for t in things}
    told = [replace(t, bearing_rad=bearing_of.get(t.thing_id, t.bearing_rad)) for t in listed.values()]
    return (*told, *(t for t in things if t.thing_id not in listed))


def _id(name: str | None, ids: Mapping[str, str]) -> str | None:
    return None if name is None else ids.get(name, name)


def _evaluated(trace: Trace, ids: Mapping[str, str]) -> list[tuple[Evaluated, ...]]:
    """ValueError for a trace of another length, KeyError for an unknown rule or one that lacks an input."""
    if len(trace.steps) != N_STEPS:
        raise ValueError(f"a trace has {N_STEPS} steps, not {len(trace.steps)}")
    steps = []
    for step in trace.steps:
        evaluated = []
        for i, c in enumerate(step.constraints):
            numbers = {name: float(c.inputs[name]) for name in RULES[c.rule].inputs}
            told = Constraint(
                rule=c.rule, about=_id(c.about, ids), inputs=numbers, threshold=c.threshold, allows_mps2=c.allows_mps2
            )
            mark = "binds" if i == step.binding else "ties" if i in step.tied else ""
            evaluated.append(Evaluated(constraint=told, mark=mark))
        steps.append(tuple(evaluated))
    return steps


def _motion(sample: Sample) -> tuple[tuple[tuple[float, float, float], ...] | None, float | None]:
    """States and turn, see Truth. Of a human's label it is the planner's motion, which its text explains."""
    rows = sample.future
    if sample.extra.get("label") == "human":
        try:
            rows = np.array(sample.extra["explained"], dtype=float)
        except (KeyError, TypeError, ValueError):
            return None, None
    if rows.shape != (51, 5) or not np.isfinite(rows).all():
        return None, None
    driven = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(rows[:, :2], axis=0).T))])
    turned = math.degrees(rows[-1, 2] - rows[0, 2])
    states = np.column_stack([rows[::TICKS, 3:5], driven[::TICKS]]).tolist()
    return tuple((speed, accel, at_m) for speed, accel, at_m in states), math.remainder(turned, 360.0)
