"""The sample browser: every sample a row, some in full with cameras, road, texts and what is true of them.

The page holds the data as JSON and one script of ours (`browser.js`), which makes elements and sets their text; nothing that
a model or a data set says is ever read as markup. Same results, same bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.faithfulness.observed.truth import parameters_of
from eval.open_loop.answers import MISSING
from eval.open_loop.predictions_file import UNUSABLE
from eval.report.browser_table import SplitFacts, split_facts, table_of
from eval.report.browser_texts import lines_of
from eval.report.cases import SHOWN_IN_FULL, choose
from eval.report.projection import box_paths, dots, strip_path
from eval.report.runs import Comparison
from eval.report.scene import Scenes, drawn, from_above, objects_of, with_origin
from nsdrive.cameras.rig import Camera, Rig
from nsdrive.dataset import Dataset, Prediction, Sample
from nsdrive.vla.displacement import usable
from nsdrive.vla.prompt import CAMERA_WORDS
from nsdrive.world.rules import IdmParameters
from nsdrive.world.types import FloatArray

CAMERA_WIDTH_PX = 400  # chosen by us: sharp enough beside two others, 15 kB each
IMAGE_BYTES = 6_500_000  # chosen by us: of all images together; as text they are a third more
MOST_FILES = 8  # predictions files that can be looked at sample by sample
SURROUND = (
    "CAM_L0",
    "CAM_F0",
    "CAM_R0",
    "CAM_L1",
    "",
    "CAM_R1",
    "CAM_L2",
    "CAM_B0",
    "CAM_R2",
)  # as they lie around the ego
COMPARED_WAYPOINTS = 6  # 3 s
DATA_ID = "browser-data"


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One sample in full. images: camera -> JPEG, scaled down. answers: predictions file -> its answer, None where it has none."""

    sample: Sample
    images: Mapping[str, bytes]
    answers: Mapping[str, Prediction | None]


@dataclass(kw_only=True)
class Browser:
    """What the page's script gets of one comparison, and what a reader must be told about it."""

    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)  # the samples in full


def script() -> str:
    """The one script of the page."""
    return files("eval.report").joinpath("browser.js").read_text(encoding="utf-8")


def style() -> str:
    return files("eval.report").joinpath("browser.css").read_text(encoding="utf-8")


def embedded(browsers: Sequence[Browser]) -> str:
    """The data as an element that no browser runs and no text can end: every <, >, & and character beyond ASCII escaped."""
    text = json.dumps([browser.data for browser in browsers], ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{DATA_ID}">{text}</script>'


def browser_of(
    comparison: Comparison,
    *,
    scenes: Callable[[Dataset], Scenes] | None = None,
    limit: int = SHOWN_IN_FULL,
    image_bytes: int = IMAGE_BYTES,
) -> Browser:
    """Gather what the browser shows; scenes as `eval.report.compose.report` has them. image_bytes: what all images may weigh."""
    every = [row for row in comparison.rows if row.run.sample_rows(row.key)]
    rows = every[:MOST_FILES]
    if not rows:
        return Browser(data={}, notes=["There are no samples to browse."])
    dataset, why = comparison.dataset()
    split = comparison.facts["split"]
    facts = SplitFacts() if dataset is None else split_facts(dataset, split)
    main_rows = comparison.main.run.sample_rows(comparison.main.key)
    notes = [] if dataset is not None else [f"Only the table is here, no sample in full: {why}"]
    if every[MOST_FILES:]:
        notes.append(
            f"At most {MOST_FILES} files and baselines can be looked at sample by sample. These {len(every) - MOST_FILES} of "
            f"{len(every)} are in the tables above only: {', '.join(row.name for row in every[MOST_FILES:])}."
        )
    answered: dict[str, dict[str, Prediction]] = {}
    chosen: dict[str, list[str]] = {}
    if dataset is not None:
        there = [row for row in main_rows if row["id"] in facts.spans]
        if len(there) < len(main_rows):
            notes.append(
                f"{len(main_rows) - len(there)} samples cannot be read from the data set: they are in the table only."
            )
        chosen = choose(there, facts.pairs, limit)
        for row in rows:
            if row.entry.get("file") is not None:
                try:
                    answered[row.name] = row.predictions(set(chosen))
                except (OSError, ValueError) as error:
                    notes.append(f"The answers of {row.name} are not shown: {error}")
    table = table_of(rows, main_rows, facts.speeds, chosen)
    details: dict[str, Any] = {}
    shown: list[Shown] = []
    if dataset is not None and chosen:
        scene_of = None if scenes is None else scenes(dataset)
        shown = _shown(dataset, facts, chosen, answered, image_bytes, notes)
        parameters = parameters_of(dataset.manifest.get("config") or {})
        details, shown = _details(shown, scene_of, parameters, notes)
        for sample_id, detail in details.items():
            others = [before for after, before in facts.pairs.items() if after == sample_id]
            others += [after for after, before in facts.pairs.items() if before == sample_id]
            detail["moved"] = _moved(sample_id, facts.pairs, {one.sample.sample_id: one for one in shown})
            detail |= {"why": chosen[sample_id], "pair": [other for other in others if other in chosen]}
    if len(main_rows) > len(table["rows"]):
        notes.append(
            f"The table has {len(table['rows'])} of {len(main_rows)} samples: those in full, the others at random."
        )
    if details and len(details) < len(main_rows):
        notes.append(
            f"{len(details)} of {len(main_rows)} samples are here in full (marked ●): per binding rule of {comparison.main.name} "
            "the worst, median and best, failed answers, least true texts, largest errors, and the rest at random."
        )
    data = {"name": f"{comparison.facts['name']}, split {split}", "table": table, "details": details}
    return Browser(data=_storable(data), notes=notes, shown=shown)


# ---- samples in full --------------------------------------------------------------------------------------------------


def _shown(
    dataset: Dataset,
    facts: SplitFacts,
    chosen: Mapping[str, list[str]],
    answered: Mapping[str, Mapping[str, Prediction]],
    left_bytes: int,
    notes: list[str],
) -> list[Shown]:
    """The chosen samples in the order of their choice, with images as long as there is room for them."""
    without, shown = 0, []
    for sample_id in chosen:
        sample = facts.sample(sample_id)
        images = _images(sample, dataset) if left_bytes > 0 else {}
        without += left_bytes <= 0
        left_bytes -= sum(len(data) for data in images.values())
        answers = {name: by_id.get(sample_id) for name, by_id in answered.items()}
        shown.append(Shown(sample=sample, images=images, answers=answers))
    if without:
        notes.append(f"The last {without} of them are without camera images, to keep the page small.")
    return shown


def _details(
    chosen: Sequence[Shown], scene_of: Scenes | None, parameters: IdmParameters | None, notes: list[str]
) -> tuple[dict[str, Any], list[Shown]]:
    """Sample id -> what the page shows of it, and the samples of which it can: a data set may come from anywhere."""
    details, shown = {}, []
    for one in chosen:
        try:
            details[one.sample.sample_id] = _detail(one, scene_of, parameters)
            shown.append(one)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            notes.append(f"{one.sample.sample_id} is not here in full, its data are misshapen: {error!r}")
    return details, shown


def _detail(one: Shown, scene_of: Scenes | None, parameters: IdmParameters | None) -> dict[str, Any]:
    sample, answers = one.sample, one.answers
    objects = objects_of(sample)
    above, no_road = _above(sample, objects or [], scene_of)
    waypoints = {name: p.waypoints_ego_m for name, p in answers.items() if p is not None and usable(p.waypoints_ego_m)}
    edit = sample.extra.get("edit")
    return {
        "facts": {
            "binding rule": sample.binding_rule,
            "scenario type": sample.scenario_type,
            "command": sample.command,
            "scenario": sample.scenario_id,
            "planner": sample.planner,
        },
        "edit": str(edit.get("words")) if isinstance(edit, Mapping) else None,
        "objects": objects,
        "above": above,
        "noRoad": no_road,
        "cameras": _cameras(sample, one.images, objects or [], waypoints),
        "label": lines_of(sample, sample.answer, parameters) | {"speeds": speeds_mps(sample.waypoints_ego_m)},
        "prompt": sample.prompt[:4000],
        "answers": {name: _answer(sample, answer, parameters) for name, answer in answers.items()},
    }


def _moved(after: str, pairs: Mapping[str, str], shown: Mapping[str, Shown]) -> dict[str, Any] | None:
    """How far the edit moves the label and each file's answer, mean over the waypoints up to 3 s, m; None for no edited sample, or
    one whose sample before is not here."""
    here, there = shown[after], shown.get(pairs.get(after, ""))
    if there is None:
        return None
    moved: dict[str, Any] = {}
    for name, answer in here.answers.items():
        before = there.answers.get(name)
        points = [None if a is None else a.waypoints_ego_m for a in (before, answer)]
        if all(usable(p) for p in points):
            moved[name] = _apart_m(*points)
    return {"label": _apart_m(there.sample.waypoints_ego_m, here.sample.waypoints_ego_m), "answers": moved}


def _apart_m(before: Any, after: Any) -> float:
    steps = (np.asarray(after) - np.asarray(before))[:COMPARED_WAYPOINTS]
    return round(float(np.hypot(steps[:, 0], steps[:, 1]).mean()), 3)


def _above(sample: Sample, objects: list[dict[str, Any]], scene_of: Scenes | None) -> tuple[dict[str, Any], str]:
    """The view from above as data, and why its road is not drawn where somebody tried."""
    try:
        return from_above(sample, objects, None if scene_of is None else scene_of(sample)), ""
    except (ValueError, OSError, LookupError) as error:
        return from_above(sample, objects, None), f"The road is not drawn: {error}"


def _answer(sample: Sample, answer: Prediction | None, parameters: IdmParameters | None) -> dict[str, Any]:
    if answer is None:
        return {"lines": [], "missing": [], "unread": None, "left_out": 0, "error": MISSING}
    shown: dict[str, Any] = lines_of(sample, answer.text, parameters)
    shown["error"] = answer.error
    points = answer.waypoints_ego_m
    if points is None or not usable(points):
        return shown | {"error": answer.error or UNUSABLE}
    return shown | {"above": drawn(with_origin(points)), "speeds": speeds_mps(points)}


def _cameras(
    sample: Sample,
    images: Mapping[str, bytes],
    objects: Sequence[Mapping[str, Any]],
    waypoints: Mapping[str, FloatArray | None],
) -> list[dict[str, Any] | None]:
    """The cameras as they lie around the ego, None where the ego itself is; boxes of what each sees or would see."""
    cameras = sound_cameras(sample)
    names = [_camera_name(relative) for relative in sample.images]
    around = [name for name in SURROUND if name in names or (name == "" and len(names) > 3)]
    shown: list[dict[str, Any] | None] = []
    for name in [*around, *(name for name in names if name not in SURROUND)]:
        if not name:
            shown.append(None)
            continue
        entry: dict[str, Any] = {"name": name, "words": CAMERA_WORDS.get(name, name)}
        data = images.get(name)
        entry["image"] = None if data is None else _uri(data)
        camera = cameras.get(name)
        if camera is not None:
            entry |= {
                "size": [camera.width_px, camera.height_px],
                "label": _drawn_over(camera, sample.waypoints_ego_m),
                "answers": {
                    file: _drawn_over(camera, points) for file, points in waypoints.items() if points is not None
                },
                "boxes": _boxes(camera, objects),
            }
        shown.append(entry)
    return shown


def _drawn_over(camera: Camera, waypoints_ego_m: FloatArray) -> dict[str, Any]:
    return {"strip": strip_path(camera, waypoints_ego_m), "dots": dots(camera, waypoints_ego_m)}


def _boxes(camera: Camera, objects: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """[object id, outline, edges, whether the camera sees it], the farthest first."""
    found = []
    for thing in sorted(objects, key=lambda o: -float(np.hypot(o["x_m"], o["y_m"]))):
        paths = box_paths(camera, thing)
        if paths is not None:
            found.append([thing["id"], *paths, camera.name in thing["cameras"]])
    return found


def sound_cameras(sample: Sample) -> dict[str, Camera]:
    """Name -> camera, those whose numbers can be true: they come with the data set, which a stranger may have made."""
    try:
        return {camera.name: camera for camera in Rig.from_json(sample.rig).cameras if _sound(camera)}
    except (ValueError, TypeError, LookupError):
        return {}


def _sound(camera: Camera) -> bool:
    numbers = [getattr(camera, name) for name in Camera.__dataclass_fields__ if name != "name"]
    if not all(isinstance(n, (int, float)) and np.isfinite(n) for n in numbers):
        return False
    return 16 <= camera.width_px <= 10_000 and 16 <= camera.height_px <= 10_000 and min(camera.fx, camera.fy) > 1.0


def speeds_mps(waypoints_ego_m: FloatArray) -> list[float]:
    """Mean speed over each half second."""
    steps = np.diff(np.clip(waypoints_ego_m, -1e4, 1e4), axis=0, prepend=0.0)
    return [round(float(v), 2) for v in 2.0 * np.hypot(steps[:, 0], steps[:, 1])]


# ---- files ------------------------------------------------------------------------------------------------------------


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _camera_name(relative: str) -> str:
    return relative.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _images(sample: Sample, dataset: Dataset) -> dict[str, bytes]:
    """Camera -> JPEG; one that is not there or is no picture is left out."""
    found = {_camera_name(relative): _camera_jpeg(dataset, relative) for relative in sample.images}
    return {name: data for name, data in found.items() if data is not None}


def _camera_jpeg(dataset: Dataset, relative: str) -> bytes | None:
    try:
        raw = np.frombuffer(dataset.image_path(relative).read_bytes(), dtype=np.uint8)
        picture = cv2.imdecode(raw, cv2.IMREAD_COLOR) if len(raw) else None
    except (OSError, ValueError, cv2.error):
        return None
    return None if picture is None else _jpeg(picture, CAMERA_WIDTH_PX, quality=80)


def _jpeg(bgr: NDArray[Any], width_px: int, *, quality: int) -> bytes:
    height, width = bgr.shape[:2]
    if width > width_px:
        size = (width_px, max(1, round(height * width_px / width)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return bytes(data)


def _storable(value: Any) -> Any:
    """The same with numbers that JSON has: not-a-number and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
