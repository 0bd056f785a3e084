"""One scenario and one planner -> the samples at its anchors: label, trace, text, images. Pure: same input, same bytes.

A generated scene has no recorded future: the planner drives it once from its start, and anchors lie along that rollout.
A real log has one: anchors lie along the log, and from each the planner is rolled out on its own for five seconds. What the
waypoints are, and what the text explains, is in `data_gen.labels`.

Images are the log's own where it has them, else drawn. At an anchor along a log a sample says which, and what its label is:

    "image_source": "recorded",          # or "rendered". The rig stored with the sample is the one that took its images
    "label": "human",                    # or "rollout", "plan"
    "explained": [[x_m, y_m, heading_rad, speed_mps, accel_mps2], ...]   # 51 rows like `future`; only where that is not explained

A sample of a generated scene that says nothing of either is drawn, and its label is the rollout.

With `edits` samples come in minimal pairs (`data_gen.pairs`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_gen.labels import FUTURE_TICKS, AnchorConfig, Anchored, NoRecordingError, anchored
from data_gen.teacher import Driving, driving_of
from nsdrive.cameras.recorded import RecordedViews, recorded_views
from nsdrive.cameras.render import Renderer, encode_jpeg
from nsdrive.cameras.rig import Camera, Rig
from nsdrive.dataset import Sample
from nsdrive.scenarios.recorded import RecordedCamera
from nsdrive.trace.build import build_trace
from nsdrive.trace.record import to_json
from nsdrive.trace.rounding import recorded
from nsdrive.trace.text import render
from nsdrive.trace.trace import Trace
from nsdrive.vla.prompt import TICKS_PER_WAYPOINT, build_prompt, ego_history_rows, render_answer
from nsdrive.world.edits import parse_edit
from nsdrive.world.geometry import to_ego, wrap_angle
from nsdrive.world.navigation import navigation
from nsdrive.world.types import EgoState, FloatArray, ObjectFrame, Planner, Rollout, Scenario

SEEN_PIXELS = 12  # chosen by us: an object that covers less of a 640x360 image is not said to be seen
AUTO, BINDING = (
    "auto",
    "remove binding",
)  # what `edits` takes beside `parse_edit`'s: chosen at each anchor; whom its rule is about
AROUND_M = 60.0  # chosen by us: what is farther and in nobody's view is of no interest to a text
NO_IMAGES = "no_recorded_images"
LEFT_OUT = {  # why an anchor, or what an edit makes of it, makes no sample -> in words
    "at_fault_collision": "the teacher runs into something by its own fault (nuPlan's rule of fault)",
    "off_road": "the teacher leaves the drivable area by more than 0.3 m",
    NO_IMAGES: "a camera of the rig has no recorded image there, and images=recorded",
    "after_at_fault_collision": "in the edited scene the teacher runs into something by its own fault",
    "after_off_road": "in the edited scene the teacher leaves the drivable area",
    "after_no_plan": "in the edited scene the teacher finds no way",
}


@dataclass(frozen=True, kw_only=True)
class SampleConfig(AnchorConfig):
    """What a sample shows and says, and (AnchorConfig) where along a scenario samples are taken and what their label is.

    images: the log's own ("recorded": an anchor without them makes no sample, a scenario without any fails), drawn
    ("rendered"), or, "auto", the log's own where it has all cameras of the rig at that anchor, else drawn.

    edits: changes of the scene (`nsdrive.world.edits`), of each of which every anchor makes a second sample where it applies;
    "auto" chooses for each anchor edits that move the planner and edits that do not, at most edits_per_anchor of both.
    """

    trace_level: Literal["none", "brief", "detailed"] = "detailed"
    jpeg_quality: int = 90
    images: Literal["auto", "recorded", "rendered"] = "auto"
    edits: tuple[str, ...] = ()
    edits_per_anchor: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"samples.jpeg_quality must be 1 to 100, got {self.jpeg_quality}")
        for text in self.edits:
            if text not in (AUTO, BINDING):
                parse_edit(text)
        if self.edits and self.images != "rendered":
            raise ValueError("samples.edits needs samples.images=rendered: nobody took photographs of an edited scene")
        if self.edits and self.agents != "replay":
            raise ValueError(
                "samples.edits needs samples.agents=replay: an edit changes one thing, the others do as they did"
            )
        if self.edits and self.label == "human":
            raise ValueError("samples.edits needs samples.label=rollout or plan: no human drove in an edited scene")
        if self.edits_per_anchor < 1:
            raise ValueError(f"samples.edits_per_anchor must be at least 1, got {self.edits_per_anchor}")
        if self.anchors == "rollout" and self.images == "recorded":
            raise ValueError("samples.images=recorded needs anchors along the log: samples.anchors=auto or log")
        if self.anchors == "rollout" and self.label == "human":
            raise ValueError("samples.label=human needs anchors along the log: samples.anchors=auto or log")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A sample and its images as JPEG bytes, by their path in the dataset folder; and the trace, of which the sample keeps
    what is recorded."""

    sample: Sample
    images: Mapping[str, bytes]
    trace: Trace


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An anchor, or an edit of it, that makes no sample. reason: key of LEFT_OUT. edit: its name, None for the anchor itself."""

    tick: int
    reason: str
    edit: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What the cameras show: name -> (H, W, 3) RGB; seen: camera -> what it sees -> pixels, by what is drawn."""

    rig: Rig
    source: Literal["recorded", "rendered"]
    rgb: Mapping[str, NDArray[np.uint8]]
    seen: Mapping[str, Mapping[str, int]]


def samples_of(
    scenario: Scenario,
    planner: Planner,
    rig: Rig,
    config: SampleConfig,
    *,
    item: str,
    cameras: Sequence[RecordedCamera] = (),
    drawn_at: Collection[int] = (),
) -> Iterator[Made | LeftOut]:
    """What becomes of every anchor of a scenario, in time order. `item` is the scenario's name in its source, kept for `check`.

    cameras: the log's own. drawn_at: ticks at which images are drawn though the log may have its own (`check` asks for those
    that were drawn when the data was made). ValueError, one line, where the scenario cannot make what is asked for.
    """
    if config.edits:
        from data_gen.pairs import pairs_of  # which builds on the rest of this module

        yield from pairs_of(scenario, planner, rig, config, item=item)
        return
    renderer = Renderer(scenario.lane_map, scenario.scenery_seed)
    views = None if config.images == "rendered" else recorded_views(cameras, rig)
    judged: tuple[Rollout, Driving] | None = None  # the last drive, which several anchors may lie along
    for at in anchored(scenario, planner, config):
        if config.images == "recorded" and not at.along_log:
            raise NoRecordingError(
                f"samples.images=recorded: scenario {scenario.scenario_id} is no log; leave it at auto"
            )
        if config.images == "recorded" and views is None:
            raise ValueError(_lacking(cameras, rig))
        if at.drive is not None and not config.keep_bad_driving:
            if judged is None or judged[0] is not at.drive:
                judged = (at.drive, driving_of(at.drive))
            fault = judged[1].fault(at.drive_index, at.drive_index + FUTURE_TICKS)
            if fault is not None:
                yield LeftOut(tick=at.tick, reason=fault)
                continue
        wanted = views if at.along_log and at.tick not in drawn_at else None
        pictures = pictures_of(at, renderer, rig, wanted)
        if config.images == "recorded" and pictures.source != "recorded":
            yield LeftOut(tick=at.tick, reason=NO_IMAGES)
            continue
        yield make_sample(at, pictures, config, item=item)


def pictures_of(at: Anchored, renderer: Renderer, rig: Rig, views: RecordedViews | None) -> Pictures:
    """The log's images where `views` has all of them, else drawn ones. What is seen is always found by drawing.

    ScenarioError where an image file is broken.
    """
    rollout, index = at.rollout, at.index
    recorded_rgb = None if views is None else views.images(at.tick)
    taken_by = rig if views is None or recorded_rgb is None else views.rig
    drawn = renderer.render(rollout.states[index].pose, rollout.frames[index], rollout.lights[index], taken_by)
    seen = {
        camera.name: {thing: pixels for thing, pixels in drawn[camera.name].seen.items() if pixels >= enough(camera)}
        for camera in taken_by.cameras
    }
    if recorded_rgb is not None:
        return Pictures(rig=taken_by, source="recorded", rgb=recorded_rgb, seen=seen)
    return Pictures(rig=rig, source="rendered", rgb={name: view.rgb for name, view in drawn.items()}, seen=seen)


def make_sample(at: Anchored, pictures: Pictures, config: SampleConfig, *, item: str) -> Made:
    """The sample at an anchor."""
    folder = f"images/{at.rollout.scenario.scenario_id}/{at.tick:04d}"
    images = {f"{folder}/{name}.jpg": encode_jpeg(rgb, config.jpeg_quality) for name, rgb in pictures.rgb.items()}
    sample, trace = told(
        at,
        config,
        images=tuple(images),
        rig=pictures.rig.to_json(),
        seen=pictures.seen,
        image_source=pictures.source,
        item=item,
    )
    return Made(sample=sample, images=images, trace=trace)


def told(
    at: Anchored,
    config: SampleConfig,
    *,
    images: tuple[str, ...],
    rig: Mapping[str, Any],
    seen: Mapping[str, Mapping[str, int]],
    image_source: str,
    item: str,
) -> tuple[Sample, Trace]:
    """All of a sample but the pixels, and its trace. images: files named after their cameras, in the order of the rig; rig: as
    JSON; seen: camera -> what it sees -> pixels (`Pictures.seen`)."""
    rollout, index, tick = at.rollout, at.index, at.tick
    scenario, ego = rollout.scenario, rollout.states[index]
    heading_for = navigation(scenario.mission, ego)
    trace, names = build_trace(rollout, index, seen=seen, navigation=heading_for)
    text = render(trace, config.trace_level)
    history = ego_history_rows((*rollout.history, *rollout.states[: index + 1]))
    future = future_rows(at.label)
    waypoints = np.round(future[TICKS_PER_WAYPOINT::TICKS_PER_WAYPOINT, :2], 2) + 0.0
    decision = rollout.plans[index].decision
    assert decision is not None, "a teacher must explain itself"
    extra = {
        "item": item,
        "source": scenario.source,
        "seen": seen,
        "objects": objects_around(rollout.frames[index], ego, seen),
        "notes": dict(scenario.notes),
    }
    if at.along_log or config.label != "rollout":
        extra |= {"image_source": image_source, "label": config.label}
    if config.label == "human":
        extra["explained"] = future_rows(at.explained).tolist()
    sample = Sample(
        sample_id=f"{scenario.scenario_id}-{tick:04d}",
        scenario_id=scenario.scenario_id,
        scenario_type=scenario.scenario_type,
        planner=rollout.planner,
        trace_level=config.trace_level,
        images=images,
        prompt=build_prompt(
            cameras=[PurePosixPath(image).stem for image in images],
            ego_history=history,
            command=heading_for.command,
            speed_limit_mps=heading_for.speed_limit_mps,
            level=config.trace_level,
        ),
        answer=render_answer(text, waypoints),
        ego_history=tuple(history),
        waypoints_ego_m=waypoints,
        future=future,
        command=heading_for.command,
        speed_limit_mps=heading_for.speed_limit_mps,
        binding_rule=decision.binding_constraint.rule,
        trace=to_json(recorded(trace)),  # all that was decided, whatever the text says of it
        trace_names=names,
        rig=rig,
        anchor={"tick": tick, "time_s": round(ego.time_s, 3), "pose_global": [round(float(v), 6) for v in ego.pose]},
        unknown=tuple(sorted(scenario.unknown)),
        extra=extra,
    )
    return sample, trace


def objects_around(frame: ObjectFrame, ego: EgoState, seen: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Every tracked object that a camera sees or that is within AROUND_M, in the frame's order: where it is in the ego frame (rear
    axle), how large and how fast. What a text says of objects can be held to this without the scenario."""
    visible = {thing for things in seen.values() for thing in things}
    rows = []
    for thing in (frame[row] for row in range(len(frame))):
        x, y = to_ego(np.array([[thing.x_m, thing.y_m]]), ego.pose)[0]
        if thing.track_id not in visible and np.hypot(x, y) > AROUND_M:
            continue
        numbers = {
            "x_m": x,
            "y_m": y,
            "heading_rad": wrap_angle(thing.heading_rad - ego.heading_rad),
            "length_m": thing.length_m,
            "width_m": thing.width_m,
            "height_m": thing.height_m,
            "speed_mps": thing.speed_mps,
        }
        numbers = {name: round(float(value), 3) + 0.0 for name, value in numbers.items()}
        rows.append({"id": thing.track_id, "kind": thing.kind, **numbers})
    return rows


def explained_future(sample: Sample) -> FloatArray:
    """(51, 5): the motion that a sample's text explains, rows like `Sample.future`. ValueError where it is misshapen."""
    if sample.extra.get("label") != "human":
        return sample.future
    try:
        rows = np.array(sample.extra["explained"], dtype=float)
    except (KeyError, TypeError, ValueError):
        raise ValueError("it has no `explained`, the motion that its text is about") from None
    if rows.shape != sample.future.shape or not np.isfinite(rows).all():
        raise ValueError(f"`explained` must be finite and of shape {sample.future.shape}, got {rows.shape}")
    return rows


def image_source(sample: Sample) -> str:
    """ "recorded" or "rendered"."""
    return str(sample.extra.get("image_source", "rendered"))


def _lacking(cameras: Sequence[RecordedCamera], rig: Rig) -> str:
    has = {camera.name for camera in cameras}
    lacking = ", ".join(camera.name for camera in rig.cameras if camera.name not in has)
    return f"samples.images=recorded, but the log's images of {lacking} are not there (samples.images=auto draws them)"


def enough(camera: Camera) -> float:
    """The pixels that make an object seen, for this camera's image size."""
    return SEEN_PIXELS * camera.width_px * camera.height_px / (640 * 360)


def future_rows(states: tuple[EgoState, ...]) -> FloatArray:
    """(51, 5) at 10 Hz from the anchor on: x, y, heading in its ego frame, speed, acceleration; four decimals."""
    anchor = states[0]
    poses = np.array([s.pose for s in states])
    motion = np.array([[s.speed_mps, s.accel_mps2] for s in states])
    headings = wrap_angle(poses[:, 2] - anchor.heading_rad)
    rows = np.column_stack([to_ego(poses[:, :2], anchor.pose), headings, motion])
    return np.asarray(np.round(rows, 4) + 0.0)
