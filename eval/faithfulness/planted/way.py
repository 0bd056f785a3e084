"""The path that a picture shows, and driving a given distance along it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nsdrive.dataset import Sample
from nsdrive.world.types import FloatArray

STEP_M = 0.05  # chosen by us: points nearer than this tell nothing of a direction
CHORD_M = 1.0  # chosen by us: the direction in which a path goes on is that of its last metre
JOINS_M = 2.0  # chosen by us: a longer path within this distance is the same road


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """points_ego_m (N, 2), N >= 2, the first the origin; along_m (N,): the distance driven to each. Straight on after the last."""

    points_ego_m: FloatArray
    along_m: FloatArray

    def drive(self, progress_m: FloatArray) -> FloatArray:
        """(T, 2) in the ego frame: where one is after each of these distances."""
        at = np.clip(progress_m, 0.0, self.along_m[-1])
        points = np.stack([np.interp(at, self.along_m, column) for column in self.points_ego_m.T], axis=1)
        return np.asarray(points + (np.maximum(progress_m, 0.0) - at)[:, None] * self._direction())

    def turned_deg(self, progress_m: float) -> float:
        """The change of heading after this distance, left positive."""
        back = self.drive(np.array([max(progress_m - CHORD_M, 0.0), max(progress_m, CHORD_M)]))
        step = back[1] - back[0]
        return float(np.degrees(np.arctan2(step[1], step[0]))) if progress_m > STEP_M else 0.0

    def _direction(self) -> FloatArray:
        before = np.searchsorted(self.along_m, max(self.along_m[-1] - CHORD_M, 0.0), side="right") - 1
        step = self.points_ego_m[-1] - self.points_ego_m[min(int(before), len(self.along_m) - 2)]
        return np.asarray(step / np.hypot(*step))


def straight() -> Way:
    """For who sees nothing."""
    return Way(points_ego_m=np.array([[0.0, 0.0], [CHORD_M, 0.0]]), along_m=np.array([0.0, CHORD_M]))


def way_of(shown: Sample, others: Iterable[Sample] = ()) -> Way:
    """The path of a sample's label. Where it ends because the ego stood, it goes on as the longest of `others` that joins it:
    samples of the same moment, whose pictures show the same road."""
    points = _points(shown.future[:, :2])
    longest = max((_points(o.future[:, :2]) for o in others), key=_length, default=points)
    if _length(longest) > _length(points) + CHORD_M:
        apart = np.hypot(*(longest - points[-1]).T)
        joins = int(apart.argmin())
        rest = longest[joins + 1 :]
        rest = rest[np.hypot(*(rest - points[-1]).T) > STEP_M]
        if apart[joins] <= JOINS_M and len(rest):
            points = np.concatenate([points, rest])
    if len(points) < 2:
        return straight()
    steps = np.hypot(*np.diff(points, axis=0).T)
    return Way(points_ego_m=points, along_m=np.concatenate([[0.0], np.cumsum(steps)]))


def _points(positions: FloatArray) -> FloatArray:
    kept = [np.zeros(2)]
    for point in positions:
        if np.hypot(*(point - kept[-1])) > STEP_M:
            kept.append(point)
    return np.array(kept)


def _length(points: FloatArray) -> float:
    return float(np.hypot(*np.diff(points, axis=0).T).sum()) if len(points) > 1 else 0.0
