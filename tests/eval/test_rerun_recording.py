"""The recording for the Rerun viewer. Its package is optional: where it is missing, what to install is said."""

import dataclasses
import sys

import numpy as np
import pytest
from eval_fixtures import answer, write_dataset

from eval.evaluate import evaluate
from eval.report.compose import report
from nsdrive.cameras.rig import make_rig

CAR = {"id": "car-1", "kind": "vehicle", "x_m": 15.0, "y_m": 1.0, "heading_rad": 0.5, "length_m": 4.6, "width_m": 1.9}
CAR |= {"height_m": 1.5, "speed_mps": 3.0}


def test_without_the_package_one_line_says_what_to_install_and_no_report_is_begun(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ValueError, match="pip install rerun-sdk"):
        report([tmp_path], tmp_path / "report", rerun=tmp_path / "samples.rrd")
    assert not (tmp_path / "report").exists()


def test_the_other_package_of_that_name_is_not_taken_for_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rerun", type(sys)("rerun"))
    with pytest.raises(ValueError, match="pip install rerun-sdk"):
        report([tmp_path], tmp_path / "report", rerun=tmp_path / "samples.rrd")


def test_a_recording_has_a_step_for_every_sample_in_full(samples, write_predictions, tmp_path):
    pytest.importorskip("rerun")
    rig = make_rig("3", width_px=160, height_px=90).to_json()
    seen = [
        dataclasses.replace(s, rig=rig, extra={"objects": [CAR], "seen": {"CAM_F0": {"car-1": 9}}}) for s in samples
    ]
    dataset = write_dataset(tmp_path / "data", seen)
    rows = [answer(s) for s in seen]
    rows[3] = dataclasses.replace(rows[3], waypoints_ego_m=None, error="none", text="")
    evaluate({"a b/c": write_predictions("m", rows)}, dataset, tmp_path / "eval")
    path = tmp_path / "deep/samples.rrd"
    report([tmp_path / "eval"], tmp_path / "report", in_full=5, rerun=path)
    assert path.read_bytes()[:3] == b"RRF"
    assert not list(path.parent.glob(".*"))
    np.testing.assert_array_less(20_000, path.stat().st_size)
