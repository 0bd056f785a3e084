"""A planner's choice in the bird's-eye view: every proposal in the colour of its score, and whom a score blames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nsdrive.trace.choice import Motion
from nsdrive.trace.templates import motion_words
from nsdrive.world.decision import Decision
from nsdrive.world.geometry import box_corners
from nsdrive.world.types import FloatArray, ObjectFrame, Plan

if TYPE_CHECKING:
    from nsdrive.draw import Color, Page

CHOSEN, SECOND, BLAMED = (10, 92, 60), (40, 46, 54), (206, 30, 40)
_SCALE: tuple[Color, ...] = ((198, 54, 48), (236, 164, 44), (46, 160, 90))  # scores 0, 0.5 and 1


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnChoice:
    """paths (P, T, 2): the proposals' rear axles, global. decision: what became of them. blamed: track id -> name to write."""

    paths: FloatArray
    decision: Decision
    blamed: Mapping[str, str]


def drawn_choice(plan: Plan, names: Mapping[str, str]) -> DrawnChoice | None:
    """What there is to draw of a plan, None without proposals. names: name in the text -> track id."""
    if plan.decision is None or plan.candidates is None or plan.decision.chosen is None:
        return None
    guilty = {t.about for p in plan.decision.proposals for t in p.terms if t.about is not None and t.value < 1.0}
    blamed = {track: name for name, track in names.items() if track in guilty}
    return DrawnChoice(paths=plan.candidates[:, :, :2], decision=plan.decision, blamed=blamed)


def draw_choice(page: Page, choice: DrawnChoice, frame: ObjectFrame) -> None:
    """Losers thin and worst first, the second dashed, the chosen strong; who is blamed gets an outline and a name."""
    proposals, d = choice.decision.proposals, choice.decision
    assert d.chosen is not None, "or there is nothing to draw"
    for i in sorted(range(len(proposals)), key=lambda i: (proposals[i].score, -i)):
        if i not in (d.chosen, d.runner_up):
            track = page.of(choice.paths[i])
            page.line(track, score_color(proposals[i].score), 1.2)
            page.dot(track[-1], 4.2, (255, 255, 255))  # where it would be: those of one path differ in nothing else
            page.dot(track[-1], 3.4, score_color(proposals[i].score))
    if d.runner_up is not None:
        track = page.of(choice.paths[d.runner_up])
        page.line(track, (255, 255, 255), 3.0)
        page.dashes(track, SECOND, 2.0)
        page.dot(track[-1], 4.6, SECOND)
        page.dot(track[-1], 3.0, score_color(proposals[d.runner_up].score))
    track, color = page.of(choice.paths[d.chosen]), score_color(proposals[d.chosen].score)
    page.line(track, (255, 255, 255), 8.5)
    page.line(track, CHOSEN, 6.5)
    page.line(track, color, 4.0)
    page.dot(track[-1], 6.5, CHOSEN)
    page.dot(track[-1], 4.5, color)
    for row, track_id in enumerate(frame.ids):
        if track_id in choice.blamed:
            box = frame.boxes[row].copy()
            box[3:] += 0.8
            corners = page.of(box_corners(box[None])[0])
            page.line(corners, BLAMED, 2.0, closed=True)
            page.text(choice.blamed[track_id], (corners[:, 0].max() + 4, corners[:, 1].mean() + 4), 12.0, BLAMED)


def choice_legend(choice: DrawnChoice) -> list[tuple[str, Color, str]]:
    """(words, colour, "line" | "dashes" | "scale" | "box") of each entry."""
    d = choice.decision
    assert d.chosen is not None, "or there is nothing to draw"
    winner = d.proposals[d.chosen]
    entries: list[tuple[str, Color, str]] = [(_said("chosen", d, d.chosen), score_color(winner.score), "line")]
    if d.runner_up is not None:
        entries.append((_said("second", d, d.runner_up), SECOND, "dashes"))
    if len(d.proposals) > 2:
        entries.append((f"{len(d.proposals) - 2} others, score 0 to 1", SECOND, "scale"))
    return entries + ([("blamed for a score", BLAMED, "box")] if choice.blamed else [])


def score_color(score: float) -> Color:
    """Red at 0, amber at 0.5, green at 1."""
    at = 2.0 * min(max(score, 0.0), 1.0)
    low = min(int(at), 1)
    a, b = np.array(_SCALE[low]), np.array(_SCALE[low + 1])
    red, green, blue = (round(float(v)) for v in a + (at - low) * (b - a))
    return red, green, blue


def _said(what: str, decision: Decision, index: int) -> str:
    proposal = decision.proposals[index]
    return f"{what}: {motion_words(Motion.of(proposal))}, {proposal.score:.2f}"
