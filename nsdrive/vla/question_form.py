"""How a model was asked in its training, kept beside its weights: which cameras it saw, and in what detail it answered.

    write_form(QuestionForm(rig=make_rig("3"), trace_level="brief"), Path("out/run/model"))
    read_form("out/run/model")                          # the same; None for a model that nsdrive did not train

A model that drives must be asked as it was trained. No torch here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsdrive.cameras.rig import Rig
from nsdrive.dataset import write_atomically
from nsdrive.vla.prompt import TASK

FORM = "nsdrive.json"
PACKAGED = Path(__file__).parents[1] / "checkpoints"  # a folder for each model that comes with nsdrive


@dataclass(frozen=True, kw_only=True)
class QuestionForm:
    """The rig of a sample's images, and its trace level."""

    rig: Rig
    trace_level: str


def write_form(form: QuestionForm, folder: Path) -> None:
    text = json.dumps({"rig": form.rig.to_json(), "trace_level": form.trace_level}, indent=2)
    write_atomically(folder / FORM, text + "\n")


def read_form(source: str | Path) -> QuestionForm | None:
    """The form in a model's folder, None where there is none (a hub id has none). ValueError for one that cannot be read."""
    path = Path(source) / FORM
    if not path.is_file():
        return None
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        form = _form(written["rig"], written["trace_level"])
    except (KeyError, TypeError, ValueError):
        form = None
    if form is None:
        raise ValueError(f"{path} is not what nsdrive wrote there, a rig and a trace level: delete it, or train again")
    return form


def require_same_rig(source: str | Path, row: Any, *, what: str) -> None:
    """ValueError where a model was trained with another rig than the sample of `what` has; nothing where one is not known.

    The same rig at another resolution is the same: images are resized.
    """
    trained, given = read_form(source), form_of(row)
    if trained is None or given is None or _views(trained.rig) == _views(given.rig):
        return
    before, now = ([camera.name for camera in form.rig.cameras] for form in (trained, given))
    if before != now:
        differs = f"with the cameras {', '.join(before)}; {what} has {', '.join(now)}"
    else:
        differs = f"with the same cameras, but mounted or cropped otherwise than those of {what}"
    raise ValueError(f"{source} was trained {differs}: make data with its rig, or start from another model")


def _views(rig: Rig) -> list[tuple[Any, ...]]:
    """Where each camera sits and looks, and what of the scene its image shows: lens in parts of the image, to a thousandth."""
    return [
        (
            camera.name,
            *(round(v, 3) for v in (camera.x_m, camera.y_m, camera.z_m)),
            *(round(v, 3) for v in (camera.yaw_rad, camera.pitch_rad, camera.roll_rad)),
            *(round(v, 3) for v in (camera.fx / camera.width_px, camera.fy / camera.height_px)),
            *(round(v, 3) for v in (camera.cx / camera.width_px, camera.cy / camera.height_px)),
        )
        for camera in rig.cameras
    ]


def form_of(row: Any) -> QuestionForm | None:
    """That of a sample's row, a JSON object; None where it has no rig or level of ours (another's dataset may not)."""
    try:
        return _form(row["nsdrive"]["rig"], row["trace_level"])
    except (KeyError, TypeError, ValueError):
        return None


def _form(rig: Any, trace_level: str) -> QuestionForm | None:
    cameras = Rig.from_json(rig)
    return QuestionForm(rig=cameras, trace_level=trace_level) if cameras.cameras and trace_level in TASK else None


def model_folder(model: str) -> str:
    """The model itself, where a run's folder or the name of a model that comes with nsdrive ("box") is given."""
    inside = Path(model) / "model"
    is_run = inside.is_dir() and not (Path(model) / "adapter_config.json").is_file()
    if is_run:
        return str(inside)
    packaged = PACKAGED / model
    is_name = "/" not in model and model not in ("", ".", "..") and not Path(model).exists()
    return str(packaged) if is_name and packaged.is_dir() else model
