"""The model that comes with nsdrive."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nsdrive.dataset import open_dataset
from nsdrive.vla.data.encoding import encode
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.inference.predictor import Predictor
from nsdrive.vla.question_form import model_folder, read_form


def test_it_is_found_by_its_name_and_small_and_holds_nothing_that_runs() -> None:
    folder = Path(model_folder("box"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jinja", ".md"}
    assert sum(path.stat().st_size for path in files) < 30e6
    form = read_form(folder)
    assert form is not None
    assert (form.rig.name, form.trace_level) == ("3", "brief")
    assert model_folder("boxes") == "boxes", "another name is a folder's or the hub's"


def test_its_head_drives_on_as_the_ego_does_in_about_the_right_place(dataset: Path) -> None:
    """The fixture's ego goes straight on at one speed; its pictures are noise."""
    predictor = Predictor.load(model_folder("box"))
    rows = Rows(open_dataset(dataset), "test")
    some = [rows[k] for k in range(2)]
    said = predictor.waypoints([encode(predictor.processor, row, with_answer=False) for row in some])
    true = np.stack([row.waypoints_ego_m for row in some if row.waypoints_ego_m is not None])
    assert np.linalg.norm(said - true, axis=-1)[:, :6].mean() < 3.0
