"""The samples that a report shows in full as a recording for the Rerun viewer, for those who like to scrub.

    nsdrive report EVALUATION --out REPORT --rerun samples.rrd;  rerun samples.rrd

One step of the timeline "sample" is one sample: cameras with their images, objects as boxes, the label's and every file's
trajectory, and the texts. The world is the ego frame at the anchor: x forward, y left, z up, metres. Needs `rerun-sdk`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.report.browser import Shown, sound_cameras
from eval.report.scene import objects_of, with_origin
from nsdrive.dataset import Prediction
from nsdrive.vla.displacement import usable
from nsdrive.world.types import FloatArray
from nsdrive.world.vehicle import PACIFICA

INSTALL = "A recording needs the package rerun-sdk (0.23 or newer): pip install rerun-sdk; or leave --rerun out"
LABEL_RGB, EGO_RGB, THING_RGB, HIDDEN_RGB = (22, 193, 114), (31, 111, 235), (200, 160, 40), (130, 136, 146)
FILE_RGB = ((59, 139, 255), (209, 87, 10), (122, 63, 196), (10, 143, 122), (184, 50, 128), (138, 109, 0))
MOST_TEXT = 20_000


def require_rerun() -> Any:
    """The module, or ValueError with what to install. "rerun" on the package index is something else."""
    try:
        import rerun
    except ModuleNotFoundError:
        raise ValueError(INSTALL) from None
    if not hasattr(getattr(rerun, "RecordingStream", None), "set_time"):
        raise ValueError(INSTALL)
    return rerun


def write_recording(shown: Sequence[Shown], path: Path) -> None:
    """Write `path`, replacing it. Raises ValueError where the package is missing or there is nothing to record."""
    rr = require_rerun()
    if not shown:
        raise ValueError("There is no sample to record: the data set is not there, or nothing was evaluated")
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = rr.RecordingStream("nsdrive_report")
    stream.set_log_time_enabled(False)
    stream.set_log_tick_enabled(False)
    part = path.with_name(f".{path.name}.part")
    stream.save(str(part))
    stream.log("world", rr.ViewCoordinates.FLU, static=True)
    stream.log("world/ego", _ego(rr), static=True)
    files = list(dict.fromkeys(name for one in shown for name in one.answers))
    for k, one in enumerate(shown):
        stream.set_time("sample", sequence=k)
        _log_sample(rr, stream, one, files)
    stream.flush()
    stream.disconnect()
    part.replace(path)


def _log_sample(rr: Any, stream: Any, one: Shown, files: Sequence[str]) -> None:
    sample = one.sample
    stream.log(
        "sample",
        rr.TextDocument(f"{sample.sample_id}\n{sample.scenario_type}, {sample.binding_rule}, {sample.command}"),
    )
    stream.log("text/label", rr.TextDocument(sample.answer[:MOST_TEXT]))
    _log_cameras(rr, stream, one)
    _log_objects(rr, stream, one)
    history = np.array([[h["x_m"], h["y_m"]] for h in sample.ego_history], dtype=float).reshape(-1, 2)
    stream.log("world/history", _line(rr, history, HIDDEN_RGB))
    _log_way(rr, stream, "world/label", sample.waypoints_ego_m, LABEL_RGB)
    for k, name in enumerate(files):
        answer = one.answers.get(name)
        stream.log(["text", name], rr.TextDocument(_said(answer)))
        points = None if answer is None or not usable(answer.waypoints_ego_m) else answer.waypoints_ego_m
        _log_way(rr, stream, ["world", "answers", name], points, FILE_RGB[k % len(FILE_RGB)])


def _log_cameras(rr: Any, stream: Any, one: Shown) -> None:
    for name, camera in sound_cameras(one.sample).items():
        where = ["world", "cameras", name]
        # the rows of `rotation` are the camera's right, down and forward in the ego frame: its columns take a point back
        stream.log(where, rr.Transform3D(translation=camera.position_m, mat3x3=camera.rotation.T))
        size = {"width": camera.width_px, "height": camera.height_px}
        stream.log(
            [*where, "image"],
            rr.Pinhole(image_from_camera=camera.intrinsics, camera_xyz=rr.ViewCoordinates.RDF, **size),
        )
        data = one.images.get(name)
        if data is None:
            stream.log([*where, "image"], rr.Clear(recursive=False))
        else:
            stream.log([*where, "image"], rr.EncodedImage(contents=data, media_type="image/jpeg"))


def _log_objects(rr: Any, stream: Any, one: Shown) -> None:
    objects = objects_of(one.sample) or []
    if not objects:
        stream.log("world/objects", rr.Clear(recursive=False))
        return
    half = 0.5 * np.array([o["heading_rad"] for o in objects])
    turned = np.column_stack([np.zeros_like(half), np.zeros_like(half), np.sin(half), np.cos(half)])  # x, y, z, w
    boxes = rr.Boxes3D(
        centers=[[o["x_m"], o["y_m"], o["height_m"] / 2.0] for o in objects],
        sizes=[[o["length_m"], o["width_m"], o["height_m"]] for o in objects],
        quaternions=turned,
        colors=[THING_RGB if o["cameras"] else HIDDEN_RGB for o in objects],
        labels=[f"{o['name'] or o['id']}: {o['speed_mps']:.1f} m/s" for o in objects],
    )
    stream.log("world/objects", boxes)


def _log_way(
    rr: Any, stream: Any, where: str | list[str], waypoints_ego_m: FloatArray | None, rgb: tuple[int, ...]
) -> None:
    """A trajectory and a point at every half second; cleared where there is none, or the last sample's would stay."""
    base = [*where.split("/")] if isinstance(where, str) else where
    if waypoints_ego_m is None:
        stream.log(base, rr.Clear(recursive=True))
        return
    stream.log(base, _line(rr, with_origin(waypoints_ego_m), rgb))
    points = np.column_stack([waypoints_ego_m, np.full(len(waypoints_ego_m), 0.05)])
    stream.log([*base, "waypoints"], rr.Points3D(points, colors=[rgb], radii=0.15))


def _line(rr: Any, points: FloatArray, rgb: tuple[int, ...]) -> Any:
    return rr.LineStrips3D([np.column_stack([points, np.full(len(points), 0.05)])], colors=[rgb], radii=0.06)


def _ego(rr: Any) -> Any:
    size = [PACIFICA.length_m, PACIFICA.width_m, PACIFICA.height_m]
    centre = [PACIFICA.rear_axle_to_center_m, 0.0, PACIFICA.height_m / 2.0]
    return rr.Boxes3D(centers=[centre], sizes=[size], colors=[EGO_RGB], labels=["ego"])


def _said(answer: Prediction | None) -> str:
    if answer is None:
        return "(no answer)"
    return answer.text[:MOST_TEXT] or f"({answer.error or 'no text'})"
