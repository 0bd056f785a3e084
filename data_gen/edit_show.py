"""A scene before and after edits, as a person wants to see it: pictures side by side, both texts and their difference, what the
planner makes of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from data_gen.labels import FUTURE_TICKS, Anchored
from data_gen.pairs import Bench, LeftOut, Moment, anchors_afresh, driven, moment_of, unbinding
from data_gen.sample import BINDING, Made, Pictures, SampleConfig
from data_gen.show import anchor_tick, find_item
from data_gen.teacher import Teacher, driving_of
from nsdrive.cameras.render import Renderer
from nsdrive.cameras.rig import make_rig
from nsdrive.dataset import json_line, write_atomically
from nsdrive.draw import INK, WHITE, birds_eye, contact_sheet
from nsdrive.trace.text import render
from nsdrive.vla.prompt import TICKS_PER_WAYPOINT
from nsdrive.world.edits import apply_edit, parse_edit
from nsdrive.world.edits_scene import Applied, before_of
from nsdrive.world.geometry import to_global
from nsdrive.world.types import INTERVAL_S, Planner, Scenario

AT_S = (1, 3, 5)  # where the planner's motions are compared
SIDE_PX, BANNER_PX = 800, 34
DIFFERENCE = "difference.txt"  # only such a folder has it


@dataclass(frozen=True, kw_only=True)
class EditShown:
    """What was written, and what to print: the edits in words, how far the planner's motion moves, the binding rules, the texts'
    difference. moved_m: seconds after the anchor -> metres."""

    scenario_id: str
    words: tuple[str, ...]
    moved_m: dict[int, float]
    binding: tuple[str, str]  # before, after: the rule and whom it is about
    lines: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the two: the anchor, what is seen, the sample, its texts."""

    at: Anchored
    pictures: Pictures
    made: Made

    @property
    def binding(self) -> str:
        """ "lead (vehicle-1)": as the text names it."""
        decision = self.at.rollout.plans[self.at.index].decision
        assert decision is not None, "a teacher explains itself"
        names = {thing: name for name, thing in self.made.sample.trace_names.items()}
        about = decision.binding_constraint.about
        return decision.binding_constraint.rule + (f" ({names.get(about, about)})" if about else "")


def show_edit(
    name: str,
    edits: Sequence[str],
    make_planner: Callable[[], Planner],
    *,
    rig: str,
    at_s: float,
    seed: int,
    out: Path,
    overwrite: bool = False,
) -> EditShown:
    """Write sheet.png, both texts (detailed), their difference and both samples' rows of a scenario with the edits made, one after
    the other, at `at_s` seconds. Whom an edit is about may be said by the name in the text before.

    ValueError, one line, where an edit does not apply there, the planner finds no way, or `out` holds something: with `overwrite`,
    something else than an edit. Until all is drawn nothing is written or replaced."""
    if not edits:
        raise ValueError("No edit given: for example --remove lead, --light green, --add pedestrian@12m, --goal left")
    _refuse(out, overwrite)
    source, item = find_item(name, seed)
    scenario: Scenario = source.load(item)
    tick = anchor_tick(scenario, at_s)
    config = SampleConfig(keep_bad_driving=True, images="rendered", edits=("auto",))
    bench = Bench(
        planner=Teacher(make_planner()),
        renderer=Renderer(scenario.lane_map, scenario.scenery_seed),
        rig=make_rig(rig),
        config=config,
        item=item,
    )
    found = next(anchors_afresh(scenario, bench.planner, config, ticks=(tick,)), None)
    if not isinstance(found, Anchored):
        raise ValueError(f"{scenario.scenario_id} gives no ego state at {at_s} s")
    moment = moment_of(found, bench)
    before = Side(at=moment.at, pictures=moment.pictures, made=moment.made)
    changes, after = _after(moment, edits, bench)
    return _written(scenario, before, after, changes, bench, out)


def _refuse(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ValueError(f"{out} exists. Replace its pictures with --overwrite, or choose another --out")
        if not (out / DIFFERENCE).is_file():
            raise ValueError(
                f"{out} holds something else (no {DIFFERENCE} in it): not overwritten. Choose another --out"
            )


def _after(moment: Moment, edits: Sequence[str], bench: Bench) -> tuple[tuple[Applied, ...], Side]:
    """All edits but the last are made to the scene; the last as a pair's."""
    changes = []
    index = moment.at.index
    for number, typed in enumerate(edits, start=1):
        text = _by_track_id(typed, moment)
        edit = unbinding(moment) if text == BINDING else parse_edit(text)
        if edit is None:
            raise ValueError(f"'{text}': the rule that binds here is about nobody who could be removed")
        change = apply_edit(moment.scene, edit)
        changes.append(change)
        scene = before_of(change.scenario, moment.at.tick, moment.at.rollout.states[index])
        if number < len(edits):
            moment = replace(moment, scene=scene)
            continue
        there = driven(moment, edit, bench)
        if there is None or isinstance(there, LeftOut):
            raise ValueError("The planner finds no way in the edited scene")
        pictures, made = bench.sample(there[1])
        return tuple(changes), Side(at=there[1], pictures=pictures, made=made)
    raise AssertionError("there is at least one edit")


def _by_track_id(edit: str, moment: Moment) -> str:
    """The edit with whom it is about, said by the name in the text before ("remove vehicle-4"), as the scenario calls it."""
    words = edit.split()
    meant = moment.made.sample.trace_names.get(words[1]) if len(words) > 1 else None
    if meant not in moment.scene.frame.ids:  # no name in the text, or of a signal
        return edit
    return " ".join([words[0], meant, *words[2:]])


def _written(
    scenario: Scenario, before: Side, after: Side, changes: Sequence[Applied], bench: Bench, out: Path
) -> EditShown:
    words = tuple(change.words for change in changes)
    labels = [change.about for change in changes if change.about is not None]
    sides = {"before": before, "after": after}
    texts = {name: render(side.made.trace, "detailed") for name, side in sides.items()}
    was, now = (text.splitlines() for text in texts.values())
    difference = list(difflib.unified_diff(was, now, "before", "after", lineterm="", n=0))
    moved = moved_at(before.at, after.at)
    lines = [
        f"{scenario.scenario_id} ({scenario.scenario_type}), at {before.at.tick * INTERVAL_S:.1f} s, planner {bench.planner.name}:",
        *(f"  {change.words}{_called(change.about, before)}" for change in changes),
        f"the planner's motion moves by {', '.join(f'{m:.2f} m at {s} s' for s, m in moved.items())}",
        f"binding before: {before.binding}; after: {after.binding}",
        *(f"{name}: {fault}" for name, side in sides.items() if (fault := _fault(side))),
        "",
        *(difference or ["(both texts are the same)"]),
    ]
    contents: dict[str, bytes | str] = {
        "sheet.png": _png(_sheet(scenario, sides, labels)),
        DIFFERENCE: "\n".join(lines) + "\n",
        **{f"{name}.txt": text + "\n" for name, text in texts.items()},
        **{f"{name}.json": json_line(side.made.sample.to_row()) for name, side in sides.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        write_atomically(out / file, content)
    return EditShown(
        scenario_id=scenario.scenario_id,
        words=words,
        moved_m=moved,
        binding=(before.binding, after.binding),
        lines=tuple(lines),
        files=tuple(out / file for file in contents),
    )


def moved_at(before: Anchored, after: Anchored) -> dict[int, float]:
    """Seconds after the anchor -> how far the planner is from where it was in the other scene [m]."""
    found = {}
    for seconds in AT_S:
        a, b = (at.label[round(seconds / INTERVAL_S)] for at in (before, after))
        found[seconds] = round(float(np.hypot(a.x_m - b.x_m, a.y_m - b.y_m)), 3)
    return found


def _called(about: str | None, before: Side) -> str:
    """ " (car-15, in the text vehicle-4)": by what names the pictures and the text before know somebody."""
    if about is None:
        return ""
    name = next((name for name, thing in before.made.sample.trace_names.items() if thing == about), about)
    return f" ({about}, in the text {name})" if name != about else f" ({about})"


def _fault(side: Side) -> str | None:
    assert side.at.drive is not None, "bad driving is kept, and judged here"
    fault = driving_of(side.at.drive).fault(side.at.drive_index, side.at.drive_index + FUTURE_TICKS)
    said = {"at_fault_collision": "the planner runs into something", "off_road": "the planner leaves the road"}
    return None if fault is None else said[fault]


def _sheet(scenario: Scenario, sides: dict[str, Side], labels: Sequence[str]) -> np.ndarray:
    """Before on the left, after on the right: the front camera large, the others below it, the scene from above with both of the
    planner's motions. labels: track ids to name there."""
    pose = sides["before"].at.rollout.states[sides["before"].at.index].pose
    motions = {
        f"planner {name}": to_global(side.made.sample.future[::TICKS_PER_WAYPOINT, :2], pose)
        for name, side in sides.items()
    }
    columns = []
    for name, side in sides.items():
        rollout, index = side.at.rollout, side.at.index
        rgb = dict(side.pictures.rgb)
        front = next((camera for camera in rgb if camera == "CAM_F0"), next(iter(rgb)))
        large = cv2.resize(rgb.pop(front), (SIDE_PX, SIDE_PX * 9 // 16), interpolation=cv2.INTER_AREA)
        above = birds_eye(
            scenario.lane_map,
            pose,
            rollout.frames[index],
            lights=rollout.lights[index],
            trajectories=motions,
            labels=labels,
            range_m=60.0,
            width_px=SIDE_PX,
            height_px=SIDE_PX * 3 // 4,
        )
        parts = [_banner(f"{name}: decided by {side.binding}"), large]
        parts += [contact_sheet(rgb, width_px=SIDE_PX)] if rgb else []
        columns.append(np.vstack([*parts, above]))
    gap = np.full((columns[0].shape[0], 10, 3), WHITE, dtype=np.uint8)
    return np.hstack([columns[0], gap, columns[1]])


def _banner(words: str) -> np.ndarray:
    strip = np.full((BANNER_PX, SIDE_PX, 3), INK, dtype=np.uint8)
    cv2.putText(strip, words, (12, 24), cv2.FONT_HERSHEY_DUPLEX, 0.7, WHITE, 1, cv2.LINE_AA)
    return strip


def _png(rgb: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert ok, "an image in memory can be written"
    return bytes(data)
