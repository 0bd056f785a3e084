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

from eval.answers import UNUSABLE
from eval.displacement import MISS_M, usable
from eval.report.browser_texts import lines_of
from eval.report.cases import SHOWN_IN_FULL, choose
from eval.report.projection import box_paths, dots, strip_path
from eval.report.runs import Comparison, Row
from eval.report.scene import Scenes, drawn, from_above, objects_of, with_origin
from nsdrive.cameras.rig import Camera, Rig
from nsdrive.dataset import Dataset, Prediction, Sample, read_predictions, sha256_of
from nsdrive.draw import Page
from nsdrive.vla.prompt import CAMERA_WORDS
from nsdrive.world.types import FloatArray

CAMERA_WIDTH_PX = 400  # chosen by us: sharp enough beside two others, 15 kB each
IMAGE_BYTES = 9_000_000  # chosen by us: of all images together; as text they are a third more
MOST_ROWS = 5_000  # chosen by us: lines of the table; a browser still sorts them at once
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
EYE_RANGE_M = 70.0  # of `nsdrive.draw.birds_eye`
DATA_ID = "browser-data"


Painter = Callable[[Sample, Mapping[str, FloatArray]], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What lies beneath the objects in the view from above: the scenario's road, else a painted picture, else nothing."""

    scene_of: Scenes | None
    painter: Painter | None

    def above(self, sample: Sample, objects: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
        """The view as data, and why its road is not drawn where somebody tried."""
        try:
            if self.scene_of is not None:
                return from_above(sample, objects, self.scene_of(sample)), ""
            view = from_above(sample, objects, None)
            return view if self.painter is None else view | {"picture": _picture(self.painter(sample, {}))}, ""
        except (ValueError, OSError, LookupError) as error:
            return from_above(sample, objects, None), f"The road is not drawn: {error}"


@dataclass(kw_only=True)
class Browser:
    """What the page's script gets of one comparison, and what a reader must be told about it."""

    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)


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
    birds_eye: Callable[[Dataset], Painter] | None = None,
    limit: int = SHOWN_IN_FULL,
) -> Browser:
    """Gather what the browser shows; scenes and birds_eye as `eval.report.compose.report` has them."""
    rows = [row for row in comparison.rows if row.run.sample_rows(row.key)][:MOST_FILES]
    if not rows:
        return Browser(data={}, notes=["There are no samples to browse."])
    dataset, why = comparison.dataset()
    split = comparison.facts["split"]
    known, pairs = _facts_of_samples(dataset, split) if dataset is not None else ({}, {})
    main_rows = comparison.main.run.sample_rows(comparison.main.key)
    notes = [] if dataset is not None else [f"Only the table is here, no sample in full: {why}"]
    answered: dict[str, dict[str, Prediction]] = {}
    chosen: dict[str, list[str]] = {}
    if dataset is not None:
        chosen = choose(main_rows, pairs, limit)
        for row in rows:
            if row.entry.get("file") is not None:
                try:
                    answered[row.name] = _predictions(row, set(chosen))
                except (OSError, ValueError) as error:
                    notes.append(f"The answers of {row.name} are not shown: {error}")
    table = _table(rows, main_rows, known, chosen)
    details = {}
    if dataset is not None and chosen:
        ground = Ground(
            scene_of=None if scenes is None else scenes(dataset),
            painter=None if birds_eye is None else birds_eye(dataset),
        )
        details = _details(dataset, split, chosen, pairs, answered, ground, notes)
    if len(main_rows) > len(table["rows"]):
        notes.append(
            f"The table has {len(table['rows'])} of {len(main_rows)} samples: those in full, the others at random."
        )
    if details and len(details) < len(main_rows):
        notes.append(
            f"{len(details)} of {len(main_rows)} samples are here in full (marked ●): per binding rule of {comparison.main.name} "
            "the worst, median and best, failed answers, most false claims, largest errors, and the rest at random."
        )
    data = {"name": f"{comparison.facts['name']}, split {split}", "table": table, "details": details}
    return Browser(data=_storable(data), notes=notes)


# ---- the table --------------------------------------------------------------------------------------------------------


def _facts_of_samples(dataset: Dataset, split: str) -> tuple[dict[str, float], dict[str, str]]:
    """Sample id -> speed [m/s] at the anchor, and after -> before of the minimal pairs."""
    speeds, pairs = {}, {}
    for _, row in dataset.rows(split):
        more = row.get("nsdrive", {})
        try:
            now = more["ego_history"][-1]
            speeds[str(row["id"])] = round(float(np.hypot(now["vx_mps"], now["vy_mps"])), 2)
            if isinstance(more.get("edit"), Mapping):
                pairs[str(row["id"])] = str(more["edit"]["of"])
        except (KeyError, IndexError, TypeError, ValueError):
            continue
    return speeds, pairs


def _table(
    rows: Sequence[Row],
    main_rows: Sequence[Mapping[str, Any]],
    speeds: Mapping[str, float],
    chosen: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Columns that do not depend on who answers, then those that do, per predictions file."""
    kept = list(main_rows)
    if len(kept) > MOST_ROWS:
        more = choose(main_rows, {}, MOST_ROWS)
        kept = [row for row in main_rows if row["id"] in chosen or row["id"] in more][:MOST_ROWS]
    fixed = [
        {"key": "sample", "title": "sample", "text": True},
        {"key": "type", "title": "scenario type", "text": True},
        {"key": "rule", "title": "binding rule", "text": True},
        {"key": "speed", "title": "speed m/s", "digits": 1},
    ]
    told = [
        {"key": "ADE@3s", "title": "ADE@3s m", "digits": 2, "worse": True},
        {"key": "FDE@3s", "title": "FDE@3s m", "digits": 2, "worse": True},
        {"key": "miss", "title": f"miss (> {MISS_M:g} m)", "flag": True},
        {"key": "replay", "title": "text against waypoints m", "digits": 2, "worse": True},
        {"key": "error", "title": "error", "text": True},
    ]
    scores = {}
    for row in rows:
        by_id = {found["id"]: found for found in row.run.sample_rows(row.key)}
        scores[row.name] = [_score(by_id.get(found["id"])) for found in kept]
    return {
        "fixed": fixed,
        "told": told,
        "rows": [[r["id"], r["scenario_type"], r["binding_rule"], speeds.get(r["id"])] for r in kept],
        "scores": scores,
    }


def _score(row: Mapping[str, Any] | None) -> list[Any]:
    if row is None:
        return [None] * 5
    return [row["3s/ADE"], row["3s/FDE"], bool(row["3s/MR"]), row.get("replay_error_m"), row["error"]]


# ---- samples in full --------------------------------------------------------------------------------------------------


def _details(
    dataset: Dataset,
    split: str,
    chosen: Mapping[str, list[str]],
    pairs: Mapping[str, str],
    answered: Mapping[str, Mapping[str, Prediction]],
    ground: Ground,
    notes: list[str],
) -> dict[str, Any]:
    found = {sample.sample_id: sample for sample in dataset.samples(split) if sample.sample_id in chosen}
    left_bytes, without = IMAGE_BYTES, 0
    details = {}
    for sample_id, reasons in chosen.items():
        sample = found[sample_id]
        images = _images(sample, dataset) if left_bytes > 0 else {}
        without += left_bytes <= 0
        left_bytes -= sum(len(data) for data in images.values())
        answers = {name: by_id.get(sample_id) for name, by_id in answered.items()}
        detail = _detail(sample, images, answers, ground)
        partners = (
            [pairs[sample_id]] if sample_id in pairs else [a for a, before in pairs.items() if before == sample_id]
        )
        details[sample_id] = detail | {"why": reasons, "pair": [other for other in partners if other in chosen]}
    if without:
        notes.append(f"The last {without} of them are without camera images, to keep the page small.")
    return details


def _detail(
    sample: Sample, images: Mapping[str, bytes], answers: Mapping[str, Prediction | None], ground: Ground
) -> dict[str, Any]:
    objects = objects_of(sample)
    above, no_road = ground.above(sample, objects or [])
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
        "cameras": _cameras(sample, images, objects or [], waypoints),
        "label": lines_of(sample, sample.answer) | {"speeds": speeds_mps(sample.waypoints_ego_m)},
        "prompt": sample.prompt[:4000],
        "answers": {name: _answer(sample, answer) for name, answer in answers.items()},
    }


def _answer(sample: Sample, answer: Prediction | None) -> dict[str, Any]:
    if answer is None:
        return {"lines": [], "left_out": 0, "error": "missing prediction"}
    shown: dict[str, Any] = lines_of(sample, answer.text)
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
    try:
        cameras = {camera.name: camera for camera in Rig.from_json(sample.rig).cameras}
    except (ValueError, TypeError):
        cameras = {}
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
        if camera is not None and _sound(camera):
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


def _sound(camera: Camera) -> bool:
    """A camera's numbers come with the data set; a page draws nothing over an image of which they cannot be true."""
    numbers = [getattr(camera, name) for name in Camera.__dataclass_fields__ if name != "name"]
    if not all(isinstance(n, (int, float)) and np.isfinite(n) for n in numbers):
        return False
    return 16 <= camera.width_px <= 10_000 and 16 <= camera.height_px <= 10_000 and min(camera.fx, camera.fy) > 1.0


def speeds_mps(waypoints_ego_m: FloatArray) -> list[float]:
    """Mean speed over each half second."""
    steps = np.diff(np.clip(waypoints_ego_m, -1e4, 1e4), axis=0, prepend=0.0)
    return [round(float(v), 2) for v in 2.0 * np.hypot(steps[:, 0], steps[:, 1])]


# ---- files ------------------------------------------------------------------------------------------------------------


def _predictions(row: Row, wanted: set[str]) -> dict[str, Prediction]:
    path = row.run.path(row.entry["file"])
    if not path.is_file():
        raise ValueError(f"{path} is gone")
    if sha256_of(path) != row.entry["sha256"]:
        raise ValueError(f"{path} has changed since it was evaluated")
    return {p.sample_id: p for p in read_predictions(path) if p.sample_id in wanted}


def _picture(rgb: NDArray[np.uint8]) -> dict[str, Any]:
    """The painter's picture and where it lies in the view, in metres: `nsdrive.draw.birds_eye` shows 70 m in 70 % of its height."""
    height, width = rgb.shape[:2]
    (x, y), (x1, y1) = Page(np.zeros(3), EYE_RANGE_M, width, height).of(np.array([[0.0, 0.0], [-1.0, -1.0]]))
    left, top = -x / (x1 - x), -y / (y1 - y)
    place = [left, top, width / (x1 - x), height / (y1 - y)]
    return {
        "image": _uri(_jpeg(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), width, quality=85)),
        "place": [round(v, 3) for v in place],
    }


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
