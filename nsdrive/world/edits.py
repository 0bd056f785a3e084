"""Scene edits: the same scenario but for one thing, so that what a planner or a model does can be held to that thing.

    edit = parse_edit("remove lead")
    after = edited(scenario, edit, tick, ego)     # everybody else does what they did

What can be said (WHO is "lead", the next tracked object on the ego's way, or a track id):

    remove lead | remove WHO | remove pedestrians, vehicles, cyclists, cones, everyone
    light green | light amber | light red          of the next signal on the route, from the anchor on
    add pedestrian@12m | add vehicle@25m 3mps      standing, or at a speed, in the ego's way, so far before its bumper
    add pedestrian@12m beside | add vehicle@15m behind
    goal left | goal right | goal straight         at the next junction, where the ego's lane leads there
    speed WHO 3 | stop WHO                         from the anchor on, along the way that it took
    gap WHO 15m                                    moved along the ego's way at every tick, to this gap at the anchor
    move WHO 2m left, right, ahead, back           as it looks, at every tick

Who is removed was never there; who is added is there from the anchor on; speeds and lights change at the anchor. Nobody else
reacts. An edit that would put something into another's way within five seconds, or onto the ego, does not apply.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nsdrive.world.edits_objects import added, gap_set, moved, removed, speed_set
from nsdrive.world.edits_route import goal_set, light_set
from nsdrive.world.edits_scene import KINDS, Applied, Before, before_of
from nsdrive.world.geometry import to_ego
from nsdrive.world.types import EgoState, Scenario

COLOURS = {"green": "green", "amber": "yellow", "yellow": "yellow", "red": "red"}  # as said -> in Scenario.lights
TURNS = ("left", "right", "straight")
SIDES = ("ahead", "back", "left", "right")
PLACES = ("beside", "behind")
MOST_M, MOST_MPS = 200.0, 40.0  # chosen by us: nothing farther is drawn, nobody drives faster
# IDM's hardest braking: what is nearer than a stop from the ego's speed takes is no scene to learn from
HARD_MPS2 = 3.0
NEAR_M = 60.0  # chosen by us: whom `candidates` would remove or move


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change. verb: key of VERBS. what: whom or what it is about, as in the module's table. distance_m, speed_mps and
    where are None for verbs that have none."""

    verb: str
    what: str
    distance_m: float | None = None
    speed_mps: float | None = None
    where: str | None = None

    @property
    def text(self) -> str:
        """What `parse_edit` reads back as this edit."""
        if self.verb == "add":
            parts = [f"add {self.what}@{self.distance_m:g}m", self.where]
            return " ".join([p for p in parts if p] + ([f"{self.speed_mps:g}mps"] if self.speed_mps else []))
        numbers = [f"{self.distance_m:g}m"] if self.distance_m is not None else []
        numbers += [f"{self.speed_mps:g}"] if self.speed_mps is not None else []
        return " ".join([self.verb, self.what, *numbers, *([self.where] if self.where else [])])

    @property
    def name(self) -> str:
        """Fit for an id and a file name: "remove-lead", "add-pedestrian-12m"."""
        return re.sub(r"[^A-Za-z0-9_.]+", "-", self.text).strip("-.")

    @property
    def sort(self) -> str:
        """What several edits of one kind are counted under: without ids and numbers."""
        if self.verb == "add":
            return " ".join(["add", self.what, *([self.where] if self.where else ["in the way"])])
        if self.verb in ("light", "goal") or self.what == "lead" or self.what in GROUPS:
            return f"{self.verb} {self.what}"
        return f"{self.verb} another"


GROUPS: Mapping[str, tuple[str, ...]] = {  # what "remove" takes for several at once -> kinds
    "pedestrians": ("pedestrian",),
    "vehicles": ("vehicle",),
    "cyclists": ("bicycle",),
    "cones": ("traffic_cone", "barrier", "czone_sign"),
    "everyone": ("vehicle", "bicycle", "pedestrian"),
}


def edited(scenario: Scenario, edit: Edit, tick: int, ego: EgoState) -> Scenario:
    """The scenario with the edit made as seen from the ego at `tick`, the anchor. ValueError, one line, where it does not apply."""
    return applied(scenario, edit, tick, ego).scenario


def applied(scenario: Scenario, edit: Edit, tick: int, ego: EgoState) -> Applied:
    """The same, with whom it is about and in words."""
    return apply_edit(before_of(scenario, tick, ego), edit)


def apply_edit(before: Before, edit: Edit) -> Applied:
    """The same for who makes several edits at one anchor."""
    if edit.what == "binding":
        raise ValueError(f"'{edit.text}': who binds is known to a planner only; name it by its track id")
    return VERBS[edit.verb].apply(before, edit)


def parse_edit(text: str) -> Edit:
    """An edit from what a person writes. ValueError with what is known, and "did you mean"."""
    words = text.split()
    if not words:
        raise ValueError(f"An edit begins with one of {', '.join(VERBS)}")
    verb = words[0].lower()
    if verb not in VERBS:
        raise ValueError(f"No edit '{_short(text)}'. {_hint(verb, VERBS)}")
    if len(words) == 1:
        raise ValueError(f"'{verb}' of what? Write, for example, '{VERBS[verb].example}'")
    return VERBS[verb].parse(words[1:], _short(text))


def applicable(scenario: Scenario, tick: int, ego: EgoState, seen: Collection[str] | None = None) -> list[Edit]:
    """The `candidates` that apply there."""
    before = before_of(scenario, tick, ego)
    found = []
    for edit in candidates(scenario, tick, ego, seen):
        try:
            apply_edit(before, edit)
        except ValueError:
            continue
        found.append(edit)
    return found


def candidates(scenario: Scenario, tick: int, ego: EgoState, seen: Collection[str] | None = None) -> list[Edit]:
    """Edits that may apply: those of GENERAL that leave room to stop, and some for each object within NEAR_M that is `seen` (None:
    all are), nearest first."""
    room_m = max(0.0, ego.speed_mps) ** 2 / (2.0 * HARD_MPS2)
    frame = scenario.frames[tick]
    away_m = np.hypot(*to_ego(frame.boxes[:, :2], ego.pose).T) if len(frame) else np.zeros(0)
    near = [frame.ids[row] for row in np.argsort(away_m, kind="stable") if away_m[row] <= NEAR_M]
    near = [track_id for track_id in near if seen is None or track_id in seen]
    return [
        *(
            edit
            for edit in map(parse_edit, GENERAL)
            if edit.where is not None or edit.distance_m is None or edit.distance_m > room_m
        ),
        *(Edit(verb="remove", what=track_id) for track_id in near),
        *(
            Edit(verb="move", what=track_id, distance_m=2.0, where=side)
            for track_id in near
            for side in ("ahead", "back")
        ),
    ]


GENERAL = (  # what `candidates` proposes everywhere; distances chosen by us, between a hard stop and a gentle one
    "remove lead",
    "light green",
    "light red",
    "light amber",
    "add pedestrian@12m",
    "add vehicle@15m",
    "add pedestrian@20m",
    "add pedestrian@35m",
    "add vehicle@25m",
    "add vehicle@40m",
    "add vehicle@15m 3mps",
    "add cyclist@15m 4mps",
    "add cone@20m",
    "gap lead 8m",
    "gap lead 30m",
    "stop lead",
    "goal left",
    "goal right",
    "goal straight",
    "remove pedestrians",
    "add pedestrian@12m beside",
    "add pedestrian@25m beside",
    "add vehicle@20m beside",
    "add vehicle@15m behind",
)


# ---- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Verb:
    example: str
    parse: Callable[[list[str], str], Edit]
    apply: Callable[[Before, Edit], Applied]


def _remove(words: list[str], text: str) -> Edit:
    return Edit(verb="remove", what=_one(words, text, "remove lead"))


def _light(words: list[str], text: str) -> Edit:
    colour = _known(_one(words, text, "light green"), COLOURS, text)
    return Edit(verb="light", what="amber" if colour == "yellow" else colour)


def _add(words: list[str], text: str) -> Edit:
    what, at, distance = words[0].partition("@")
    kind = _known(what, KINDS, text)
    if not at:
        raise ValueError(f"'{text}': how far away? Write, for example, 'add {kind}@12m'")
    where, speed_mps = None, None
    for word in words[1:]:
        if word[:1].isdigit():
            speed_mps = _number(word, "mps", MOST_MPS, text)
        else:
            where = _known(word, PLACES, text)
    if where == "beside" and speed_mps:
        raise ValueError(f"'{text}': beside the road one stands; leave the speed out")
    return Edit(
        verb="add", what=kind, distance_m=_number(distance, "m", MOST_M, text), speed_mps=speed_mps or None, where=where
    )


def _goal(words: list[str], text: str) -> Edit:
    return Edit(verb="goal", what=_known(_one(words, text, "goal left"), TURNS, text))


def _speed(words: list[str], text: str) -> Edit:
    if len(words) != 2:
        raise ValueError(f"'{text}': write who and how fast [m/s], for example 'speed lead 3'")
    return Edit(verb="speed", what=words[0], speed_mps=_number(words[1], "mps", MOST_MPS, text))


def _stop(words: list[str], text: str) -> Edit:
    return Edit(verb="stop", what=_one(words, text, "stop lead"))


def _gap(words: list[str], text: str) -> Edit:
    if len(words) != 2:
        raise ValueError(f"'{text}': write who and what gap, for example 'gap lead 15m'")
    return Edit(verb="gap", what=words[0], distance_m=_number(words[1], "m", MOST_M, text))


def _move(words: list[str], text: str) -> Edit:
    if len(words) != 3:
        raise ValueError(f"'{text}': write who, how far and where to, for example 'move car-3 2m ahead'")
    where = _known(words[2], SIDES, text)
    return Edit(verb="move", what=words[0], distance_m=_number(words[1], "m", MOST_M, text), where=where)


def _one(words: list[str], text: str, example: str) -> str:
    if len(words) != 1:
        raise ValueError(f"'{text}': one word is wanted there, as in '{example}'")
    return words[0]


def _known(word: str, known: Iterable[str], text: str) -> str:
    if word.lower() not in known:
        raise ValueError(f"'{text}': no '{_short(word)}' there. {_hint(word.lower(), known)}")
    return word.lower()


def _number(word: str, unit: str, most: float, text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,3})?)" + f"(?:{unit})?", word)
    if match is None or float(match[1]) > most:
        raise ValueError(f"'{text}': '{_short(word)}' should be a number from 0 to {most:g} ({unit})")
    return float(match[1])


def _hint(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return (f"Did you mean '{close[0]}'? " if close else "") + f"Known: {', '.join(known)}"


def _short(text: str) -> str:
    return " ".join(text.split())[:80]


# ---- what each verb does ----------------------------------------------------------------------------------------------

VERBS: Mapping[str, Verb] = {
    "remove": Verb(example="remove lead", parse=_remove, apply=lambda b, e: removed(b, e.what, GROUPS)),
    "light": Verb(example="light green", parse=_light, apply=lambda b, e: light_set(b, COLOURS[e.what])),
    "add": Verb(
        example="add pedestrian@12m",
        parse=_add,
        apply=lambda b, e: added(b, KINDS[e.what], e.distance_m or 0.0, e.speed_mps or 0.0, e.where),
    ),
    "goal": Verb(example="goal left", parse=_goal, apply=lambda b, e: goal_set(b, e.what)),
    "speed": Verb(example="speed lead 3", parse=_speed, apply=lambda b, e: speed_set(b, e.what, e.speed_mps or 0.0)),
    "stop": Verb(example="stop lead", parse=_stop, apply=lambda b, e: speed_set(b, e.what, 0.0)),
    "gap": Verb(example="gap lead 15m", parse=_gap, apply=lambda b, e: gap_set(b, e.what, e.distance_m or 0.0)),
    "move": Verb(
        example="move car-3 2m ahead",
        parse=_move,
        apply=lambda b, e: moved(b, e.what, e.distance_m or 0.0, e.where or "ahead"),
    ),
}
