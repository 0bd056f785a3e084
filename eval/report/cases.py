"""The best, the median and the worst answer of a predictions file, with all that a reviewer needs to judge it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eval.answers import UNUSABLE
from eval.displacement import usable
from eval.report.figures import speed_plot, trajectory_plot
from eval.report.page import clean
from eval.report.runs import Row
from nsdrive.dataset import Dataset, Prediction, Sample, read_predictions, sha256_of
from nsdrive.vla.prompt import CAMERA_WORDS
from nsdrive.world.types import FloatArray

Painter = Callable[[Sample, Mapping[str, FloatArray]], NDArray[np.uint8]]

CAMERA_WIDTH_PX = 400  # chosen by us: eight cameras of four cases then weigh under 2 MB
EYE_WIDTH_PX = 900
TEXT_SHOWN = 20_000  # characters of a text; a model may write without end
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


@dataclass(frozen=True, kw_only=True)
class Case:
    """One answer that is shown. rank: best, median, worst or failed."""

    rank: str
    row: Mapping[str, Any]
    sample: Sample
    prediction: Prediction


def choose(row: Row, split: str, dataset: Dataset) -> list[Case]:
    """Cases by strict ADE@3s among complete answers, and the first failed one. Ties go to the lesser id.

    Raises ValueError where the predictions file is not the one that was measured.
    """
    rows = row.run.sample_rows(row.key)
    ranked = sorted((r for r in rows if r["error"] is None), key=lambda r: (r["3s/ADE"], r["id"]))
    picked: dict[str, str] = {}
    if ranked:
        order = {"best": ranked[0], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[-1]}
        for rank, found in order.items():
            picked.setdefault(found["id"], rank)
    failed = next((r["id"] for r in rows if r["error"] is not None), None)
    if failed is not None:
        picked[failed] = "failed"
    by_id = {r["id"]: r for r in rows}
    predictions = _predictions(row, set(picked))
    samples = {s.sample_id: s for s in dataset.samples(split) if s.sample_id in picked}
    missing = Prediction(sample_id="", text="", waypoints_ego_m=None, error="missing prediction", seconds=0.0)
    return [
        Case(rank=rank, row=by_id[key], sample=samples[key], prediction=predictions.get(key, missing))
        for key, rank in picked.items()
    ]


def case_html(case: Case, dataset: Dataset, painter: Painter | None) -> str:
    """One case as an article: cameras, from above, speeds, both texts, the prompt."""
    sample, row = case.sample, case.row
    predicted = case.prediction.waypoints_ego_m if usable(case.prediction.waypoints_ego_m) else None
    numbers = (
        str(row["error"])
        if row["error"] is not None
        else f"ADE@3s {row['3s/ADE']:.2f} m · FDE@3s {row['3s/FDE']:.2f} m · ADE@5s {row['5s/ADE']:.2f} m"
    )
    chips = [
        f"binding rule: {sample.binding_rule}",
        f"scenario type: {sample.scenario_type}",
        f"command: {sample.command}",
        sample.sample_id,
    ]
    if row.get("replay_error_m") is not None:
        chips.insert(1, f"text against waypoints at 3 s: {row['replay_error_m']:.2f} m")
    head = f"<h3>{clean(case.rank.capitalize())}</h3><strong>{clean(numbers)}</strong>"
    said = case.prediction.text or f"(nothing: {case.prediction.error or UNUSABLE})"
    return (
        f'<article class="case"><header>{head}{"".join(f"<span class=chip>{clean(c)}</span>" for c in chips)}</header>'
        f"{_cameras(sample, dataset)}{_views(sample, predicted, painter)}"
        f'<div class="texts"><div><h4>Label</h4><pre>{_shown(sample.answer)}</pre></div>'
        f"<div><h4>Model{' (marked: not in the label)' if case.prediction.text else ''}</h4>"
        f"<pre>{_marked(said, sample.answer)}</pre></div></div>"
        f"<details><summary>The prompt</summary><pre>{_shown(sample.prompt)}</pre></details></article>"
    )


def _predictions(row: Row, wanted: set[str]) -> dict[str, Prediction]:
    path = row.run.path(row.entry["file"])
    if not path.is_file():
        raise ValueError(f"{path} is gone: its answers cannot be shown")
    if sha256_of(path) != row.entry["sha256"]:
        raise ValueError(f"{path} has changed since it was evaluated: its answers are not shown")
    return {p.sample_id: p for p in read_predictions(path) if p.sample_id in wanted}


def _cameras(sample: Sample, dataset: Dataset) -> str:
    named = {relative.rsplit("/", 1)[-1].rsplit(".", 1)[0]: relative for relative in sample.images}
    around = [name for name in SURROUND if name in named or (name == "" and len(named) > 3)]
    rest = [name for name in named if name not in SURROUND]
    figures = []
    for name in [*around, *rest]:
        if not name:
            figures.append('<div class="ego">ego<br>↑</div>')
            continue
        words = CAMERA_WORDS.get(name, name)
        data = _camera_jpeg(dataset, named[name])
        picture = f'<img src="{_uri(data)}" alt="{clean(words)} camera">' if data else "<p class=note>not readable</p>"
        figures.append(f"<figure>{picture}<figcaption>{clean(words)}</figcaption></figure>")
    return f'<div class="cameras">{"".join(figures)}</div>' if figures else ""


def _camera_jpeg(dataset: Dataset, relative: str) -> bytes | None:
    """The image scaled down; None where it is not there or is no picture."""
    try:
        raw = np.frombuffer(dataset.image_path(relative).read_bytes(), dtype=np.uint8)
        picture = cv2.imdecode(raw, cv2.IMREAD_COLOR) if len(raw) else None
    except (OSError, ValueError, cv2.error):
        return None
    return None if picture is None else _jpeg(picture, CAMERA_WIDTH_PX, quality=80)


def _views(sample: Sample, predicted: FloatArray | None, painter: Painter | None) -> str:
    key = '<ul class="legend"><li><i class="key label"></i>label</li>'
    key += '<li><i class="key s0"></i>prediction</li>' if predicted is not None else ""
    plain = (
        f"<figure>{trajectory_plot(sample, predicted)}{key}<li><i class='key past'></i>history</li></ul></figure>"
        f"<figure>{speed_plot(sample, predicted)}</figure>"
    )
    views = f'<div class="views">{plain}</div>'
    if painter is None:
        return views
    try:
        above = painter(sample, {} if predicted is None else {"prediction": predicted})
    except (ValueError, OSError) as error:
        return f'{views}<p class="note">No bird\'s eye view: {clean(error)}</p>'
    data = _jpeg(cv2.cvtColor(np.asarray(above, dtype=np.uint8), cv2.COLOR_RGB2BGR), EYE_WIDTH_PX, quality=88)
    return (
        f"<details class=eye open><summary>Bird's eye view of the scene</summary>"
        f'<img src="{_uri(data)}" alt="The scene from above with label and prediction"></details>{views}'
    )


def _jpeg(bgr: NDArray[Any], width_px: int, *, quality: int) -> bytes:
    height, width = bgr.shape[:2]
    if width > width_px:
        size = (width_px, max(1, round(height * width_px / width)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return bytes(data)


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _shown(text: str) -> str:
    more = len(text) - TEXT_SHOWN
    return clean(text[:TEXT_SHOWN]) + (f"\n… {more} more characters" if more > 0 else "")


def _marked(text: str, label: str) -> str:
    """The text, lines that the label does not have marked."""
    known = {line.strip() for line in label.splitlines()}
    lines = _shown(text).split("\n")
    plain = text[:TEXT_SHOWN].split("\n")
    return "\n".join(
        f"<mark>{shown}</mark>" if k < len(plain) and plain[k].strip() and plain[k].strip() not in known else shown
        for k, shown in enumerate(lines)
    )
