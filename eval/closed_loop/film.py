"""A drive as a film: the scene from above as the ego went through it, with what it did, why, and what it said.

    films/FAMILY-best-SCENARIO.webp     animated WebP, 5 frames a second, the drive's own pace; the last frame stays a while

A film is drawn after the drive, from the scenario and from what was kept of the drive: nobody drives again, and no model is asked
again. The others are moved once more as they were, replayed or in answer to the ego. Same drive, same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from nsdrive.config import to_plain
from nsdrive.dataset import write_atomically
from nsdrive.draw import EDGE, EGO, INK, LIGHT_COLORS, Color, birds_eye
from nsdrive.parallel import in_order
from nsdrive.scenarios.catalogue import open_source
from nsdrive.vla.prompt import parse_answer
from nsdrive.world.geometry import to_global
from nsdrive.world.measure import overlap
from nsdrive.world.traffic import traffic_for
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, ObjectFrame, Rollout, Scenario
from nsdrive.world.vehicle import ego_box

FILMS = "films"
Films = Literal["none", "best_and_worst", "all"]
TICKS_PER_FRAME = 2  # 5 frames a second
PLAN_TICKS = 50  # so much of a plan is drawn, a dot every half second
WIDTH_PX, ABOVE_PX, TITLE_PX, WORDS_PX = 360, 400, 26, 66  # chosen by us, as all of these
QUALITIES, MOST_BYTES, EFFORT = (20, 10, 4), 300_000, 2  # the best of these that stays below; else the last
RANGE_M = 48.0
TRAIL_TICKS = 30  # 3 s
FULL_MPS, HARD_MPS2 = 20.0, -2.0  # fill the bar, and turn the number red
REST_MS = 1500  # the last frame, before it begins again
SOFT, RED, GREEN, PAPER = (104, 112, 122), (190, 32, 28), (14, 142, 96), (255, 255, 255)
Kept = Mapping[str, Any]


def film(scenario: Scenario, drive: Kept, title: str, *, score: float, agents: str = "replay") -> bytes:
    """The WebP. drive: `kept_for_film`. title: what stands above, without the score."""
    from PIL import Image

    check_films()
    pictures = [Image.fromarray(picture) for picture in frames_of(scenario, drive, title, score=score, agents=agents)]
    pace_ms = round(1000 * TICKS_PER_FRAME * INTERVAL_S)
    durations = [pace_ms] * (len(pictures) - 1) + [REST_MS]
    made = b""
    for quality in QUALITIES:
        file = BytesIO()
        pictures[0].save(
            file,
            "WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
            quality=quality,
            method=EFFORT,
            kmin=0,
            kmax=1,  # every frame whole: differences of frames leave ghosts of what was there before
        )
        made = file.getvalue()
        if len(made) < MOST_BYTES:
            break
    return made


def check_films() -> None:
    """ValueError where this machine cannot write films: better before hours of driving than after."""
    from PIL import features

    if not features.check("webp"):
        raise ValueError(
            "films need a Pillow that can write WebP; this one cannot: pip install --force-reinstall pillow"
        )


def frames_of(scenario: Scenario, drive: Kept, title: str, *, score: float, agents: str = "replay") -> list[np.ndarray]:
    """The pictures, each (H, W, 3) uint8 RGB, one every TICKS_PER_FRAME ticks and one for the last state."""
    start = int(drive["start_tick"])
    states = np.array(drive["states"], dtype=np.float64)
    others = _others(scenario, start, states, agents)
    touched = {contact.tick: contact.track_id for contact in reversed(overlap(ego_box(states[:, :3]), others))}
    ticks = sorted({*range(0, len(states), TICKS_PER_FRAME), len(states) - 1})
    pictures = []
    for tick in ticks:
        before = [t for t in touched if t <= tick]
        hit = (touched[max(before)], max(before)) if before else None
        above = birds_eye(
            scenario.lane_map,
            states[tick, :3],
            others[tick],
            lights=scenario.lights[start + tick],
            history=states[max(0, tick - TRAIL_TICKS) : tick + 1 : 5, :2],
            trajectories=_plan(drive, tick, states),
            labels=[name for name in (drive["about"][tick], hit and hit[0]) if name],
            range_m=RANGE_M,
            width_px=WIDTH_PX,
            height_px=ABOVE_PX,
            legend=False,
        )
        banner = _banner(title, score)
        pictures.append(
            np.vstack([banner, above, _caption(drive, tick, states[tick], others[tick], _words(drive, tick), hit)])
        )
    return pictures


def kept_for_film(rollout: Rollout) -> dict[str, Any]:
    """What a film needs of a drive beside its scenario, as plain values: states, what bound and whom it was about, plans, words."""
    decisions = [p.decision for p in rollout.plans]
    return {
        "start_tick": rollout.start_tick,
        "states": [
            [round(float(v), 4) for v in (*s.pose, s.speed_mps, s.accel_mps2, s.steering_rad)] for s in rollout.states
        ],
        "binding": [None if d is None else d.binding_constraint.rule for d in decisions],
        "about": [None if d is None else d.binding_constraint.about for d in decisions],
        "said": [p.said for p in rollout.plans],
        "notes": [[*p.notes, *(p.decision.notes if p.decision else ())][:1] for p in rollout.plans],
        "plans": [
            np.round(_ahead(p.trajectory.times_s, p.trajectory.poses_global, s.time_s), 2).tolist()
            if k % TICKS_PER_FRAME == 0 or k == len(rollout.plans) - 1
            else None
            for k, (p, s) in enumerate(zip(rollout.plans, rollout.states, strict=True))
        ],
    }


# ---- which drives, and where ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A drive to film. which: best, worst, only (of its family), or all."""

    item: str
    scenario: str
    family: str
    which: str
    score: float

    @property
    def file(self) -> str:
        """Relative to the run's folder; of whatever a source calls its scenarios, a file name."""
        name = f"{self.family}-{self.which}-{self.scenario}"
        return f"{FILMS}/{''.join(c if c.isalnum() or c in '-_.' else '_' for c in name)[:120]}.webp"


def choose(rows: Sequence[Mapping[str, Any]], films: Films) -> list[Chosen]:
    """Of each family (of generated scenarios, else type) the drives with the highest and the lowest score, the first of equals;
    or all. By family, the worst first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows if films != "none" else []:
        groups.setdefault(str(row["family"] or row["scenario_type"]), []).append(row)
    found = []
    for family in sorted(groups):
        ordered = sorted(groups[family], key=lambda row: row["score"])  # stable: the first of equals
        best = max(groups[family], key=lambda row: row["score"])
        if films == "all":
            named = [("all", row) for row in ordered]
        elif best is ordered[0]:
            named = [("only", best)]
        else:
            named = [("worst", ordered[0]), ("best", best)]
        found += [
            Chosen(
                item=str(row["item"]),
                scenario=str(row["scenario"]),
                family=family,
                which=which,
                score=float(row["score"]),
            )
            for which, row in named
        ]
    return found


@dataclass(frozen=True, kw_only=True)
class FilmJob:
    """One film for one worker."""

    chosen: Chosen
    source: Any  # the settings' `scenarios`
    agents: str
    planner: str
    drive: Kept
    out: Path


def make_films(jobs: Sequence[FilmJob], workers: int) -> list[dict[str, Any]]:
    """Write them all; a row for each: `Chosen`'s fields, the file, its bytes, and None or why there is none."""
    return list(in_order(make_film, jobs, workers))


def make_film(job: FilmJob) -> dict[str, Any]:
    """One film, written."""
    row = {**to_plain(job.chosen), "file": job.chosen.file, "bytes": 0, "error": None}
    which = f", {job.chosen.which}" if job.chosen.which in ("best", "worst") else ""
    try:
        scenario = open_source(job.source.name, job.source.config).load(job.chosen.item)
        title = f"{job.chosen.family}{which}: {job.planner}"
        made = film(scenario, job.drive, title, score=job.chosen.score, agents=job.agents)
    except ValueError as error:  # the drive is scored all the same
        return {**row, "error": " ".join(str(error).split())}
    write_atomically(job.out / job.chosen.file, made)
    return {**row, "bytes": len(made)}


# ---- a frame -------------------------------------------------------------------------------------------------------


def _others(scenario: Scenario, start: int, states: FloatArray, agents: str) -> list[ObjectFrame]:
    """Where everybody else was at each of the states."""
    traffic = traffic_for(scenario, start, agents)
    frames = [traffic.frame]
    for k, (x, y, heading, speed, accel, steering) in enumerate(states[:-1].tolist()):
        traffic.advance(
            EgoState(
                time_s=round((start + k) * INTERVAL_S, 6),
                x_m=x,
                y_m=y,
                heading_rad=heading,
                speed_mps=speed,
                accel_mps2=accel,
                steering_rad=steering,
            )
        )
        frames.append(traffic.frame)
    return frames


def _ahead(times_s: FloatArray, poses: FloatArray, now_s: float) -> FloatArray:
    """(10, 2): a plan's points every half second from now on, as far as it reaches."""
    at = now_s + INTERVAL_S * np.arange(5, PLAN_TICKS + 1, 5)
    at = at[at <= times_s[-1] + 1e-6]
    return np.column_stack([np.interp(at, times_s, poses[:, k]) for k in (0, 1)])


def _plan(drive: Kept, tick: int, states: FloatArray) -> dict[str, FloatArray]:
    """What the planner wants now; of a model also what it answered, where it answered it."""
    found = {"plan": np.array(drive["plans"][tick] or np.zeros((0, 2)), dtype=np.float64).reshape(-1, 2)}
    asked = next((t for t in range(tick, -1, -1) if drive["said"][t] is not None), None)
    if asked is not None:
        waypoints = parse_answer(drive["said"][asked]).waypoints_ego_m
        if waypoints is not None:
            found["answer"] = to_global(waypoints, states[asked, :3])
    return found


def _words(drive: Kept, tick: int) -> str:
    """The first line of what it said last, without markup; else what it noted."""
    said = next((drive["said"][t] for t in range(tick, -1, -1) if drive["said"][t] is not None), None)
    if said is not None:
        reasoning = parse_answer(said).reasoning
        line = next((line.strip() for line in (reasoning or said).splitlines() if line.strip()), "")
        return f'"{line}"'
    notes = drive["notes"][tick]
    return notes[0] if notes else ""


def _banner(title: str, score: float) -> np.ndarray:
    strip = Strip(TITLE_PX)
    strip.text(f"{score:.2f}", WIDTH_PX - 42, 18, 13.0, RED if score < 0.5 else GREEN if score > 0.9 else INK)
    strip.text(title, 10, 18, 12.0, INK, until_px=WIDTH_PX - 48)
    return strip.finished()


def _caption(
    drive: Kept, tick: int, state: FloatArray, others: ObjectFrame, words: str, hit: tuple[str, int] | None
) -> np.ndarray:
    strip, count = Strip(WORDS_PX), len(drive["states"])
    done = 1.0 if count < 2 else tick / (count - 1)
    strip.bar(0.0, 0.0, WIDTH_PX, 3.0, EDGE)
    strip.bar(0.0, 0.0, WIDTH_PX * done, 3.0, EGO)
    strip.text(f"{tick * INTERVAL_S:.1f} s", 10, 22, 12.0, SOFT)
    strip.text(f"{state[3]:.1f} m/s", 62, 22, 14.0, INK)
    strip.bar(150.0, 13.0, 100.0, 8.0, (226, 229, 233))
    strip.bar(150.0, 13.0, 100.0 * min(1.0, float(state[3]) / FULL_MPS), 8.0, EGO)
    accel = float(state[4])
    strip.text(f"{accel:+.1f} m/s2", 266, 22, 12.0, RED if accel < HARD_MPS2 else SOFT)
    rows: list[tuple[str, Color]] = []
    if drive["binding"][tick] is not None:
        rule, name = str(drive["binding"][tick]).replace("_", " "), drive["about"][tick]
        whom = f" ({name})" if name in others.ids else ""  # lanes and lines have names for machines only
        rows.append((f"binds: {rule}{whom}", LIGHT_COLORS["red"] if rule.startswith("red") else INK))
    if hit is not None:
        rows.append((f"touched {hit[0]} at {hit[1] * INTERVAL_S:.1f} s", RED))
    if words:
        rows.append((words, SOFT))
    for k, (text, color) in enumerate(rows[:2]):  # there is room for two
        strip.text(text, 10, 41 + 17 * k, 12.0, color, until_px=WIDTH_PX - 8)
    return strip.finished()


class Strip:
    """A white strip of the film's width, drawn twice as large and then averaged."""

    def __init__(self, height_px: int) -> None:
        self.image = np.full((2 * height_px, 2 * WIDTH_PX, 3), PAPER, dtype=np.uint8)

    def text(
        self, words: str, x_px: float, y_px: float, size_px: float, color: Color, until_px: float = WIDTH_PX
    ) -> None:
        """Words on a baseline, cut with an ellipsis at until_px. What the font lacks (a model may say anything) is '?'."""
        shown = words.encode("ascii", "replace").decode("ascii")
        shown = "".join(c if c.isprintable() else " " for c in shown[:200])
        font, scale = cv2.FONT_HERSHEY_DUPLEX, 2.0 * size_px / 22.0

        def width(text: str) -> float:
            return float(cv2.getTextSize(text, font, scale, 1)[0][0]) / 2.0

        if x_px + width(shown) > until_px:
            while shown and x_px + width(shown + "...") > until_px:
                shown = shown[:-1]
            shown += "..."
        cv2.putText(self.image, shown, (round(2 * x_px), round(2 * y_px)), font, scale, color, 1, cv2.LINE_AA)

    def bar(self, x_px: float, y_px: float, width_px: float, height_px: float, color: Color) -> None:
        low, high = (
            (round(2 * x_px), round(2 * y_px)),
            (round(2 * (x_px + width_px)) - 1, round(2 * (y_px + height_px)) - 1),
        )
        if high[0] >= low[0]:
            cv2.rectangle(self.image, low, high, color, -1)

    def finished(self) -> np.ndarray:
        height, width = self.image.shape[:2]
        return np.asarray(cv2.resize(self.image, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
