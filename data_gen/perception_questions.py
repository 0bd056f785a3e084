"""What a camera image can be asked, and the answers: short questions made from facts, so that anyone can recompute them.

    facts = {                                     # of one image, or of all of a rig; `data_gen.perception_facts` collects them
        "cameras": [{"name": "CAM_F0", "yaw_rad": 0.017, ...}],           # as in a sample's rig
        "seen": {"CAM_F0": {"car-3": 2110, "signal:x-south-near": 95}},   # pixels by what is drawn
        "objects": [{"id": "car-3", "kind": "vehicle", "x_m": 16.2, ...}],  # boxes in the ego frame
        "lead": {"id": "car-3", "gap_m": 12.4},   # what the planner follows, None without one; absent where it is not known
        "light": {"state": "red", "head": "signal:x-south-near"},  # the one for our way, states None without one; or absent
        "lane": {"number": 1, "of": 2},           # ours, counted from the left; or absent
    }
    questions_of(facts)     # (Question(topic="lead", text="Which kind of thing ...", answer="vehicle", nothing=False), ...)

Nothing is asked that the image cannot tell: a thing that covers too little of it, or less than its box would, is left out
of what is asked, and where it could change the answer the question is not asked at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from nsdrive.cameras.rig import Camera, project
from nsdrive.trace.trace import KIND_WORDS, decimals
from nsdrive.vla.prompt import CAMERA_WORDS, IMAGE_TOKEN
from nsdrive.world.geometry import box_corners
from nsdrive.world.vehicle import ego_box

SEEN_SHARE = 0.001  # of an image, chosen by us: 230 pixels of 640x360, a car 50 m away or a pedestrian 20 m away
# chosen by us: 23 pixels of 640x360, the lamps of a head 35 m away; a lamp is bright, and its colour counts
LAMP_SHARE = 0.0001
CLEARLY = 1.5  # chosen by us: what covers this much more or less than SEEN_SHARE is surely counted or surely not
LEAD_WITHIN_M = 40.0  # every planner here looks at least this far (`lookahead_min_m`); what is further may not be known
LEAD_EITHER_M = 2.0  # chosen by us: about the same as LEAD_WITHIN_M, by the eye
APART_M = 0.5  # chosen by us: of two things that differ by less nobody can say which is the nearer
AHEAD_RAD = 0.35  # chosen by us: a camera that looks no further aside than 20 degrees looks ahead
# Drawn pixels per pixel of its box's outline: 0.8 to 0.9 for a vehicle that nothing hides (measured on 600 leads)
WHOLE, PARTLY = 0.75, 0.55

ROAD_USERS = ("vehicle", "cyclist", "pedestrian")
PLURALS = {"vehicle": "vehicles", "cyclist": "cyclists", "pedestrian": "pedestrians"}
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Question:
    """topic: what it is about. nothing: whether the answer is that there is none, which is most often so."""

    topic: str
    text: str
    answer: str
    nothing: bool = False


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A tracked object. distance_m: between the nearest points of its box and the ego's, as in traces."""

    id: str
    word: str
    distance_m: float
    row: Mapping[str, Any]


def questions_of(facts: Mapping[str, Any]) -> tuple[Question, ...]:
    """All that can be asked of these images, in a fixed order. ValueError, one line, for facts that are misshapen."""
    try:
        cameras = [Camera.from_json(camera) for camera in facts["cameras"]]
        seen = {camera.name: dict(facts["seen"][camera.name]) for camera in cameras}
        things = _things(facts["objects"])
        if len(cameras) != 1:
            return tuple(_of_all(cameras, seen, things))
        camera, pixels = cameras[0], seen[cameras[0].name]
        asked = [*_lead(facts, camera, pixels, things), *_light(facts, camera, pixels), *_lane(facts, camera)]
        return (*asked, *_counts(camera, pixels, things), *_nearest(camera, pixels, things))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its facts are misshapen: {type(error).__name__} {error}") from None


def prompt_of(cameras: Sequence[str], text: str) -> str:
    """The user's message: one image per camera, then the question."""
    views = "\n".join(f"{CAMERA_WORDS.get(name, name)} camera: {IMAGE_TOKEN}" for name in cameras)
    return f"{views}\n{text}"


# ---- one image --------------------------------------------------------------------------------------------------------


def _lead(
    facts: Mapping[str, Any], camera: Camera, pixels: Mapping[str, int], things: Mapping[str, Thing]
) -> Iterator[Question]:
    """What is ahead on our way. Not asked where it is hidden, or about as far as planners look."""
    if "lead" not in facts:
        return
    lead = facts["lead"]
    kinds = ", ".join(KIND_WORDS.values())
    which = f"Which kind of thing is the next on our way, within {LEAD_WITHIN_M:.0f} m? Answer {kinds} or {NONE}."
    if lead is None or lead["gap_m"] > LEAD_WITHIN_M + LEAD_EITHER_M:
        if abs(camera.yaw_rad) < AHEAD_RAD:
            yield Question(topic="lead", text=which, answer=NONE, nothing=True)
        return
    thing = things.get(lead["id"])
    if thing is None or lead["gap_m"] > LEAD_WITHIN_M - LEAD_EITHER_M or pixels.get(thing.id, 0) < floor_px(camera):
        return
    yield Question(topic="lead", text=which, answer=thing.word)
    yield Question(
        topic="lead_distance",
        text="How many metres are we from the next thing on our way, between the nearest points of both?",
        answer=metres(thing.distance_m),
    )
    if _centre_inside(camera, thing):
        yield Question(
            topic="lead_bearing",
            text="In which direction from where we are heading is the next thing on our way?",
            answer=bearing(camera, thing),
        )
    share = _shown_share(camera, thing, pixels[thing.id]) if thing.word == "vehicle" else None
    if share is not None and not PARTLY < share < WHOLE:
        yield Question(
            topic="lead_visibility",
            text="Is the whole vehicle next on our way to be seen in this image, or is it partly hidden?",
            answer="whole" if share >= WHOLE else "partly hidden",
        )


def _light(facts: Mapping[str, Any], camera: Camera, pixels: Mapping[str, int]) -> Iterator[Question]:
    """The traffic light for our way. Not asked where it is small or hidden while another one is seen."""
    if "light" not in facts:
        return
    text = f"Which colour shows the traffic light for our way in this image? Answer green, amber, red or {NONE}."
    state, head = facts["light"]["state"], facts["light"]["head"]
    if state is None:
        if abs(camera.yaw_rad) < AHEAD_RAD and not any(thing.startswith("signal:") for thing in pixels):
            yield Question(topic="light", text=text, answer=NONE, nothing=True)
    elif pixels.get(head, 0) >= LAMP_SHARE * camera.width_px * camera.height_px:
        yield Question(topic="light", text=text, answer=str(state))


def _lane(facts: Mapping[str, Any], camera: Camera) -> Iterator[Question]:
    if "lane" in facts and abs(camera.yaw_rad) < AHEAD_RAD:
        yield Question(
            topic="lane",
            text="Which lane are we in, counted from the left, and how many has our direction here?",
            answer=f"lane {int(facts['lane']['number'])} of {int(facts['lane']['of'])}",
        )


def _counts(camera: Camera, pixels: Mapping[str, int], things: Mapping[str, Thing]) -> Iterator[Question]:
    """How many road users of each kind cover enough of the image. Not asked where one nearly does."""
    for word in ROAD_USERS:
        covered = [pixels[name] for name, thing in things.items() if thing.word == word and name in pixels]
        n = _clear_count(covered, floor_px(camera))
        if n is not None:
            yield Question(
                topic=f"count_{PLURALS[word]}",
                text=f"How many {PLURALS[word]} cover at least {SEEN_SHARE * 100:.1f} % of this image each?",
                answer=str(n),
                nothing=n == 0,
            )


def _nearest(camera: Camera, pixels: Mapping[str, int], things: Mapping[str, Thing]) -> Iterator[Question]:
    """The nearest road user: what, how far, where. Not asked where a nearer or as near one is hardly seen."""
    text = "Which road user in this image is the nearest to us, how far is it and in which direction from our heading?"
    here = sorted(
        (thing for name, thing in things.items() if thing.word in ROAD_USERS and pixels.get(name, 0) > 0),
        key=lambda thing: (thing.distance_m, thing.id),
    )
    if not here:
        yield Question(topic="nearest", text=text, answer=NONE, nothing=True)
        return
    first = here[0]
    alone = len(here) == 1 or here[1].distance_m - first.distance_m >= APART_M
    if alone and pixels[first.id] >= floor_px(camera) and _centre_inside(camera, first):
        answer = f"{first.word}, {metres(first.distance_m)}, {bearing(camera, first)}"
        yield Question(topic="nearest", text=text, answer=answer)


# ---- all images of a rig -----------------------------------------------------------------------------------------------


def _of_all(
    cameras: Sequence[Camera], seen: Mapping[str, Mapping[str, int]], things: Mapping[str, Thing]
) -> Iterator[Question]:
    """How many road users of each kind the cameras show together. A thing counts by the image that shows it best."""
    for word in ROAD_USERS:
        best = [
            max(seen[camera.name].get(name, 0) / floor_px(camera) for camera in cameras)
            for name, thing in things.items()
            if thing.word == word
        ]
        n = _clear_count(best, 1.0)
        if n is not None:
            yield Question(
                topic=f"count_{PLURALS[word]}_around",
                text=f"How many {PLURALS[word]} cover at least {SEEN_SHARE * 100:.1f} % of one of these images? "
                "Count each once, however many images show it.",
                answer=str(n),
                nothing=n == 0,
            )


# ---- numbers -----------------------------------------------------------------------------------------------------------


def floor_px(camera: Camera) -> float:
    """The pixels that make a thing seen well enough to be asked for."""
    return SEEN_SHARE * camera.width_px * camera.height_px


def metres(distance_m: float) -> str:
    return f"{decimals(distance_m, 1):.1f} m"


def bearing(camera: Camera, thing: Thing) -> str:
    """Of a box's centre, from the camera: whole degrees beside the ego's heading."""
    angle = float(np.degrees(np.arctan2(thing.row["y_m"] - camera.y_m, thing.row["x_m"] - camera.x_m)))
    degrees = round(angle)
    return "0 deg" if degrees == 0 else f"{abs(degrees)} deg {'left' if degrees > 0 else 'right'}"


def _things(objects: Sequence[Mapping[str, Any]]) -> dict[str, Thing]:
    if not objects:
        return {}
    boxes = np.array([[row[key] for key in ("x_m", "y_m", "heading_rad", "length_m", "width_m")] for row in objects])
    ego = shapely.Polygon(box_corners(ego_box(np.zeros(3)))[0])
    distances = shapely.distance(ego, shapely.polygons(box_corners(boxes)))
    return {
        str(row["id"]): Thing(id=str(row["id"]), word=KIND_WORDS[row["kind"]], distance_m=float(m), row=row)
        for row, m in zip(objects, distances, strict=True)
    }


def _clear_count(covered: Sequence[float], floor: float) -> int | None:
    """How many reach the floor; None where one is too near to it to say."""
    if any(floor / CLEARLY < value < floor * CLEARLY for value in covered):
        return None
    return sum(value >= floor for value in covered)


def _centre_inside(camera: Camera, thing: Thing) -> bool:
    """Whether the middle of the thing is in the image's frame."""
    (pixel,), (depth_m,) = project(camera, np.array([[thing.row["x_m"], thing.row["y_m"], thing.row["height_m"] / 2]]))
    return bool(depth_m > 0 and 0 <= pixel[0] <= camera.width_px and 0 <= pixel[1] <= camera.height_px)


def _shown_share(camera: Camera, thing: Thing, pixels: int) -> float | None:
    """Drawn pixels per pixel of its box's outline, in the frame or not; None for one that reaches beside the camera."""
    row = thing.row
    box = np.array([[row["x_m"], row["y_m"], row["heading_rad"], row["length_m"], row["width_m"]]])
    corners = np.array([[x, y, z] for x, y in box_corners(box)[0] for z in (0.0, row["height_m"])])
    outline, depth_m = project(camera, corners)
    if depth_m.min() < 0.5:  # chosen by us: nearer corners land anywhere
        return None
    return float(pixels / shapely.MultiPoint(outline).convex_hull.area)
