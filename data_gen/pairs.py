"""Minimal pairs: a sample, and what becomes of it when one thing in its scene is another (`nsdrive.world.edits`).

At an anchor the planner is started afresh, as in a log, once in the scene as it is (the sample *before*) and once in each edited
scene (a sample *after*). Both have the same past, the same state and, but for the edit, the same world. An after sample says so:

    "edit": {
        "of": "syn-red_light-000008-s0-0020",   # the before sample; the after sample's id is this, "+" and the name
        "name": "remove-lead", "text": "remove lead", "sort": "remove lead",   # for ids; for `parse_edit`; for counting
        "words": "the lead, a vehicle 23 m ahead, is gone", "about": "car-4",  # about: scenario's id, or null
        "moved_m": 3.1, "moved_at_3s_m": 7.9,   # its waypoints from the before's: mean up to 3 s, and at 3 s
        "shows": ["images"],                    # what of the question differs: images, prompt
        "shown_share": 0.0042,                  # of the pixels of the camera that shows it most
    }

With edits=auto each anchor tries edits in an order that follows from its id, those that are likely to change the binding rule and
those of things that nobody decided by, and keeps the first that move the planner (CAUSAL_M at 3 s) and the first that leave it
(STILL_M on average): at most `edits_per_anchor` of each, and none that a camera or the prompt does not show.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from data_gen.labels import AnchorConfig, Anchored, NoRecordingError, afresh, anchor_ticks
from data_gen.sample import AUTO, BINDING, LeftOut, Made, Pictures, SampleConfig, make_sample, pictures_of
from data_gen.teacher import NoDecisionError, Teacher, driving_of
from nsdrive.cameras.render import Renderer
from nsdrive.cameras.rig import Rig
from nsdrive.dataset import Sample
from nsdrive.scenarios.source import ScenarioSource
from nsdrive.vla.prompt import TICKS_PER_WAYPOINT
from nsdrive.world.edits import Edit, apply_edit, candidates, edited, parse_edit
from nsdrive.world.edits_scene import Applied, Before, before_of
from nsdrive.world.rules import RULES
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, EgoState, Planner, Scenario

CAUSAL_M = 1.0  # at 3 s: the planner is moved. The bound for what a model must not ignore
STILL_M = 0.05  # mean up to 3 s: the planner is not moved; chosen by us
AT_3_S = 5  # index of the waypoint
TRIES = 3  # chosen by us: auto gives up on a kind after so many attempts for each edit that it may keep
OTHER_GREY = 12  # chosen by us: a pixel whose colour is this much another shows the edit
OTHER_SHARE = 40 / (640 * 360)  # chosen by us: the least part of an image that must; a person 35 m ahead has as much


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """What makes the samples of one scenario."""

    planner: Planner
    renderer: Renderer
    rig: Rig
    config: SampleConfig
    item: str

    def sample(self, at: Anchored) -> tuple[Pictures, Made]:
        pictures = pictures_of(at, self.renderer, self.rig, None)
        return pictures, make_sample(at, pictures, self.config, item=self.item)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """An anchor that makes a sample: the planner started there, what the cameras show, the sample, and what edits start from."""

    at: Anchored
    pictures: Pictures
    made: Made
    scene: Before


def pairs_of(
    scenario: Scenario, planner: Planner, rig: Rig, config: SampleConfig, *, item: str
) -> Iterator[Made | LeftOut]:
    """Every anchor's sample, followed by those of its edits. Same input, same bytes."""
    bench = Bench(
        planner=planner if isinstance(planner, Teacher) else Teacher(planner),
        renderer=Renderer(scenario.lane_map, scenario.scenery_seed),
        rig=rig,
        config=config,
        item=item,
    )
    for at in anchors_afresh(scenario, bench.planner, config):
        if isinstance(at, LeftOut):
            yield at
            continue
        moment = moment_of(at, bench)
        yield moment.made
        wanted = (unbinding(moment) if text == BINDING else parse_edit(text) for text in config.edits if text != AUTO)
        edits = list(dict.fromkeys(edit for edit in wanted if edit is not None))
        for edit in edits:
            there = driven(moment, edit, bench)
            if there is not None:
                yield there if isinstance(there, LeftOut) else after_of(moment, edit, *there, bench)
        if AUTO in config.edits:
            yield from _chosen(moment, edits, bench)


def scenario_of(source: ScenarioSource, sample: Sample) -> Scenario:
    """The scenario that a sample is of, with its edit if it has one. ScenarioError, or ValueError where it cannot be made."""
    scenario: Scenario = source.load(str(sample.extra["item"]))
    about = sample.extra.get("edit")
    if about is None:
        return scenario
    if not isinstance(about, Mapping) or not isinstance(about.get("text"), str):
        raise ValueError(f"Sample {sample.sample_id[:80]}: its edit does not say what was changed")
    return edited(scenario, parse_edit(about["text"]), int(sample.anchor["tick"]), ego_of(sample))


def ego_of(sample: Sample) -> EgoState:
    """The ego at the anchor, as far as a sample tells: no steering angle."""
    x, y, heading = (float(v) for v in sample.anchor["pose_global"])
    return EgoState(
        time_s=float(sample.anchor["time_s"]),
        x_m=x,
        y_m=y,
        heading_rad=heading,
        speed_mps=float(sample.future[0, 3]),
        accel_mps2=float(sample.future[0, 4]),
    )


# ---- before -----------------------------------------------------------------------------------------------------------


def anchors_afresh(
    scenario: Scenario, planner: Planner, config: AnchorConfig, ticks: Sequence[int] | None = None
) -> Iterator[Anchored | LeftOut]:
    """The anchors of `data_gen.labels.anchored`, the planner started at each, along a log or along its own drive."""
    recorded = len(scenario.ego_log) >= scenario.n_ticks
    along_log = config.anchors == "log" or (config.anchors == "auto" and recorded)
    ticks = anchor_ticks(scenario, config) if ticks is None else ticks
    drive, driving = None, None
    if ticks and not along_log:
        duration_s = (ticks[-1] - HISTORY_TICKS) * INTERVAL_S
        drive = simulate(scenario, planner, start_tick=HISTORY_TICKS, duration_s=duration_s)
        driving = driving_of(drive)
    for tick in ticks:
        given = scenario
        if drive is not None and driving is not None:
            at = tick - HISTORY_TICKS
            fault = None if config.keep_bad_driving else driving.fault(0, at)
            if fault is not None:
                yield LeftOut(tick=tick, reason=fault)
                continue
            given = replace(scenario, ego_log=(*drive.history, *drive.states[: at + 1]))
        elif tick >= len(scenario.ego_log):
            continue
        anchor = afresh(given, planner, config, tick, along_log=along_log)
        fault = _fault(anchor, config)
        yield anchor if fault is None else LeftOut(tick=tick, reason=fault)


def moment_of(at: Anchored, bench: Bench) -> Moment:
    pictures, made = bench.sample(at)
    scene = before_of(at.rollout.scenario, at.tick, at.rollout.states[at.index])
    return Moment(at=at, pictures=pictures, made=made, scene=scene)


# ---- after ------------------------------------------------------------------------------------------------------------


def driven(moment: Moment, edit: Edit, bench: Bench) -> tuple[Applied, Anchored] | LeftOut | None:
    """The edited scene and what the planner does there; None where the edit does not apply."""
    tick = moment.at.tick
    try:
        change = apply_edit(moment.scene, edit)
    except ValueError:
        return None
    try:
        at = afresh(change.scenario, bench.planner, bench.config, tick, along_log=moment.at.along_log)
    except (NoDecisionError, NoRecordingError):
        raise
    except ValueError:
        return LeftOut(tick=tick, reason="after_no_plan", edit=edit.name)
    fault = _fault(at, bench.config)
    return (change, at) if fault is None else LeftOut(tick=tick, reason=f"after_{fault}", edit=edit.name)


def after_of(moment: Moment, edit: Edit, change: Applied, at: Anchored, bench: Bench) -> Made:
    """The sample of an edited scene."""
    pictures, made = bench.sample(at)
    was = moment.made.sample
    mean_m, at_3s_m = moved_m(moment.at, at)
    share = _other_share(moment.pictures, pictures)
    shows = {"images": share >= OTHER_SHARE, "prompt": made.sample.prompt != was.prompt}
    about: dict[str, Any] = {
        "of": was.sample_id,
        "name": edit.name,
        "text": edit.text,
        "sort": edit.sort,
        "words": change.words,
        "about": change.about,
        "moved_m": mean_m,
        "moved_at_3s_m": at_3s_m,
        "shows": [name for name, differs in shows.items() if differs],
        "shown_share": round(share, 5),
    }
    names = {name: _beside(name, edit) for name in made.images}
    sample = replace(
        made.sample,
        sample_id=f"{was.sample_id}+{edit.name}",
        images=tuple(names[name] for name in made.sample.images),
        extra={**made.sample.extra, "edit": about},
    )
    return Made(sample=sample, images={names[name]: data for name, data in made.images.items()}, trace=made.trace)


def moved_m(before: Anchored, after: Anchored) -> tuple[float, float]:
    """How far the waypoints of one label are from another's, metres: mean of those up to 3 s, and at 3 s."""
    ticks = [TICKS_PER_WAYPOINT * (k + 1) for k in range(AT_3_S + 1)]
    points = [np.array([[at.label[k].x_m, at.label[k].y_m] for k in ticks]) for at in (before, after)]
    off = np.hypot(*(points[1] - points[0]).T)
    return round(float(off.mean()), 3), round(float(off[AT_3_S]), 3)


def kind_of(mean_m: float, at_3s_m: float) -> Literal["moves", "stays", "between"]:
    """Whether an edit moves the planner, from `moved_m`."""
    if at_3s_m > CAUSAL_M:
        return "moves"
    return "stays" if mean_m < STILL_M else "between"


def _fault(at: Anchored, config: AnchorConfig) -> str | None:
    if config.keep_bad_driving or at.drive is None:
        return None
    return driving_of(at.drive).fault(at.drive_index, len(at.drive.states) - 1)


def _other_share(before: Pictures, after: Pictures) -> float:
    """The largest part of a camera's image that is not as it was."""
    shares = [0.0]
    for name, rgb in after.rgb.items():
        off = np.abs(rgb.astype(np.int16) - before.rgb[name]).max(axis=2)
        shares.append(float((off >= OTHER_GREY).mean()))
    return max(shares)


def _beside(name: str, edit: Edit) -> str:
    """images/SCENARIO/TICK/CAMERA.jpg -> images/SCENARIO/TICK+EDIT/CAMERA.jpg"""
    folder, _, file = name.rpartition("/")
    return f"{folder}+{edit.name}/{file}"


# ---- which edits (auto) -----------------------------------------------------------------------------------------------


def _chosen(moment: Moment, done: Sequence[Edit], bench: Bench) -> Iterator[Made | LeftOut]:
    """Edits that move the planner, then edits that leave it, each at most edits_per_anchor."""
    most, used = bench.config.edits_per_anchor, {edit.sort for edit in done}
    found = {"moves": 0, "stays": 0}
    for aim, edits in zip(found, _proposed(moment), strict=True):
        tries = 0
        for edit in edits:
            if found[aim] >= most or tries >= TRIES * most:
                break
            if edit in done or (edit.sort in used and edit.sort != "remove another"):
                continue
            there = driven(moment, edit, bench)
            if there is None:
                continue
            tries += 1
            if isinstance(there, LeftOut):
                yield there
                continue
            if kind_of(*moved_m(moment.at, there[1])) != aim:
                continue
            after = after_of(moment, edit, *there, bench)
            if after.sample.extra["edit"]["shows"]:
                found[aim] += 1
                used.add(edit.sort)
                yield after


def _proposed(moment: Moment) -> tuple[list[Edit], list[Edit]]:
    """What may move the planner, the binding object's removal first; and what should not, of things that are seen and that no
    decision is about. Otherwise in an order that the sample's id sets, so that a data set has some of every sort."""
    rollout, index = moment.at.rollout, moment.at.index
    seen = {thing for things in moment.pictures.seen.values() for thing in things}
    used = decided_by(moment)
    first = [unbinding(moment)]
    decision = rollout.plans[index].decision
    if decision is not None and decision.binding_constraint.rule in ("red_light", "amber_light"):
        first.append(parse_edit("light green"))
    moving: list[Edit] = []
    still: list[Edit] = []
    for edit in candidates(rollout.scenario, moment.at.tick, rollout.states[index], seen):
        one = edit.sort.endswith("another")
        if one and edit.what in used:
            continue
        (still if one or edit.where in ("beside", "behind") or edit.what == "pedestrians" else moving).append(edit)
    seed = moment.made.sample.sample_id
    moving, still = (_shuffled(edits, seed) for edits in (moving, still))
    moving.sort(key=lambda edit: edit.verb not in ("goal", "light"))  # what few places have goes first
    return list(dict.fromkeys([*(edit for edit in first if edit is not None), *moving])), still


def unbinding(moment: Moment) -> Edit | None:
    """The removal of whom the binding rule at the anchor is about; None where that is no tracked object. The lead is called so."""
    decision = moment.at.rollout.plans[moment.at.index].decision
    assert decision is not None, "a teacher explains itself"
    binding, lead = decision.binding_constraint, moment.scene.lead
    if RULES[binding.rule].about != "track id" or binding.about is None:
        return None
    return Edit(verb="remove", what="lead" if lead is not None and lead[0] == binding.about else binding.about)


def decided_by(moment: Moment) -> set[str]:
    """Track ids that some decision of the sample's five seconds names in a constraint, a lane change or a score."""
    found: set[str | None] = set()
    for plan in moment.at.rollout.plans[moment.at.index :]:
        if plan.decision is None:
            continue
        found.update(constraint.about for constraint in plan.decision.constraints)
        found.update(term.about for proposal in plan.decision.proposals for term in proposal.terms)
        for change in plan.decision.lane_changes:
            found.update((change.lead, change.follower, change.blocker))
    return {track_id for track_id in found if track_id is not None}


def _shuffled(edits: Sequence[Edit], seed: str) -> list[Edit]:
    """By a hash of the seed and the edit, by sort first, so that the many edits of single objects do not crowd out the others."""
    by_sort: dict[str, list[Edit]] = {}
    for edit in sorted(edits, key=lambda edit: zlib.crc32(f"{seed}:{edit.text}".encode())):
        by_sort.setdefault(edit.sort, []).append(edit)
    sorts = sorted(by_sort, key=lambda sort: zlib.crc32(f"{seed}:{sort}".encode()))
    deepest = max(map(len, by_sort.values()), default=0)
    return [by_sort[sort][k] for k in range(deepest) for sort in sorts if k < len(by_sort[sort])]
