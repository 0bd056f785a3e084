"""Changes of motion and of text, and whether a model's follow the planner's. Symbols: `eval.faithfulness.causal.definitions`."""

from __future__ import annotations

import numpy as np

from eval.faithfulness.causal.definitions import FOLLOWS_COSINE, FOLLOWS_SHARE, NOTABLE_M, STILL_M
from eval.faithfulness.causal.stance import Said
from eval.faithfulness.motion import TURN_DEG
from nsdrive.vla.displacement import FAILED_DISPLACEMENT_M, HORIZONS
from nsdrive.world.types import FloatArray

UP_TO = HORIZONS["3s"]  # waypoints that every distance here is over


def motion_follows(before: FloatArray | None, after: FloatArray | None, planner_change: FloatArray) -> bool:
    """Whether the model's motion changes at least half as far as the planner's, and within 60 deg of its direction."""
    if before is None or after is None:
        return False
    moved = change(before, after)
    did_m = length_m(moved)
    far = did_m >= FOLLOWS_SHARE * length_m(planner_change) and did_m >= STILL_M
    return far and cosine_of(moved, planner_change) >= FOLLOWS_COSINE


def text_follows(
    planner: Said | None, planner_after: Said | None, model: Said | None, model_after: Said | None
) -> bool | None:
    """Whether everything that changes in the planner's text changes likewise in the model's (see edit_faithful).

    None where the planner's texts cannot be read or say the same; False where the model's cannot be read.
    """
    if planner is None or planner_after is None:
        return None
    progress_m = planner_after.progress_m - planner.progress_m
    turned_deg = planner_after.turned_deg - planner.turned_deg
    rule, path = planner.main_rule != planner_after.main_rule, planner.paths != planner_after.paths
    if not (rule or path or abs(progress_m) >= NOTABLE_M or abs(turned_deg) >= TURN_DEG):
        return None
    if model is None or model_after is None:
        return False
    if rule and (model_after.main_rule != planner_after.main_rule or model.main_rule == model_after.main_rule):
        return False
    if path and (model_after.paths != planner_after.paths or model.paths == model_after.paths):
        return False
    if abs(progress_m) >= NOTABLE_M and (model_after.progress_m - model.progress_m) / progress_m < FOLLOWS_SHARE:
        return False
    return abs(turned_deg) < TURN_DEG or (model_after.turned_deg - model.turned_deg) / turned_deg >= FOLLOWS_SHARE


def change(before: FloatArray, after: FloatArray) -> FloatArray:
    """(6, 2): how the waypoints up to 3 s change."""
    return np.asarray(after[:UP_TO] - before[:UP_TO])


def length_m(moved: FloatArray) -> float:
    """Mean length of the changes (6, 2): the d of the definitions."""
    return float(np.hypot(moved[:, 0], moved[:, 1]).mean())


def cosine_of(a: FloatArray, b: FloatArray) -> float:
    """Of two changes (6, 2), each as one vector; 0 if either is nothing."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip((a * b).sum() / lengths, -1.0, 1.0)) if lengths > 0.0 else 0.0


def ade_m(waypoints: FloatArray | None, label: FloatArray) -> float:
    """ADE at 3 s; FAILED_DISPLACEMENT_M of a failed answer."""
    return FAILED_DISPLACEMENT_M if waypoints is None else length_m(change(label, waypoints))
