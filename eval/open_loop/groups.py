"""What an evaluation is broken down by: each sample's group of each kind, from the label alone, never from an answer.

by_scenario_type   the source's own tag
by_binding_rule    the rule that set the planner's command at the anchor
by_speed           the ego's speed at the anchor, m/s
by_visibility      how much of the object that the binding rule is about a camera sees at the anchor
by_length          how far the label drives in its 5 s, m (what is left where only waypoints are known)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nsdrive.world.types import FloatArray

# all bounds chosen by us; the first speed is the one below which a direction of motion is noise
SPEED_BOUNDS_MPS = (0.5, 5.0, 10.0, 15.0)
SPEEDS = ("standing, under 0.5 m/s", "0.5 to 5 m/s", "5 to 10 m/s", "10 to 15 m/s", "15 m/s and more")
LENGTH_BOUNDS_M = (1.0, 20.0, 50.0)
LENGTHS = ("stays, under 1 m", "1 to 20 m", "20 to 50 m", "50 m and more")
SMALL_PX = 100.0  # chosen by us, of an image of 640 x 360: a car at 90 m
IMAGE_PX = 640 * 360

NOT_AN_OBJECT = "not an object"  # free road, a limit, a curve, a stop line
LIGHT = "a light in view"
HIDDEN = "hidden"
SMALL = f"small, under {SMALL_PX:.0f} px"
CLEAR = f"clear, {SMALL_PX:.0f} px or more"
UNKNOWN = "not known"
VISIBILITIES = (NOT_AN_OBJECT, LIGHT, HIDDEN, SMALL, CLEAR, UNKNOWN)

ORDERS = {"by_speed": SPEEDS, "by_visibility": VISIBILITIES, "by_length": LENGTHS}  # the others go by name


def speed_groups(speeds_mps: FloatArray) -> list[str]:
    """The name of each speed's bin."""
    return [SPEEDS[k] for k in np.digitize(speeds_mps, SPEED_BOUNDS_MPS)]


def length_groups(waypoints_ego_m: FloatArray) -> list[str]:
    """The name of the bin of each label's path length; waypoints (N, 10, 2), nan after the last where there are fewer."""
    steps = np.diff(waypoints_ego_m, axis=1, prepend=0.0)
    return [LENGTHS[k] for k in np.digitize(np.nansum(np.hypot(steps[..., 0], steps[..., 1]), axis=1), LENGTH_BOUNDS_M)]


def visibility_group(
    about: str | None,
    names: Mapping[str, str],
    seen: Mapping[str, Mapping[str, float]] | None,
    image_px: float,
) -> str:
    """How well the cameras see what the binding rule is about.

    about: its name in the trace ("vehicle-1", "signal-1", "stopline-1", "hidden-1"), None where the rule is about nothing.
    names: the trace's names -> scenario ids. seen: camera -> scenario id -> pixels, None where nobody recorded it. image_px:
    the pixels of one image, to which SMALL_PX is scaled. Of several cameras the one that sees most counts.
    """
    word = None if about is None else about.rsplit("-", 1)[0]
    if about is None or word == "stopline":
        return NOT_AN_OBJECT
    if seen is None:
        return UNKNOWN
    if word == "hidden":
        return HIDDEN
    if word == "signal":
        return LIGHT
    pixels = max((things.get(names.get(about, about), 0.0) for things in seen.values()), default=0.0)
    if pixels <= 0.0:
        return HIDDEN
    return SMALL if pixels * IMAGE_PX / image_px < SMALL_PX else CLEAR


def ordered(title: str, groups: Sequence[str]) -> list[str]:
    """The groups that occur, in the order of a table."""
    there = set(groups)
    return [g for g in ORDERS[title] if g in there] if title in ORDERS else sorted(there)
