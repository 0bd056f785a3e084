"""Logs in a publisher's own format go through the same door as generated scenes: generate, check, count what is broken."""

import pytest
from argoverse2_builder import write_forecasting_scenario, write_sensor_log

from nsdrive.cli import main
from nsdrive.dataset import open_dataset


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    write_sensor_log(folder / "sensor" / "log-a")
    write_forecasting_scenario(folder / "motion_forecasting" / "scene-b")
    return folder


def generate(logs, out, *more):
    small = ["image_width_px=160", "image_height_px=90", "rig=3", "samples.anchors_per_scenario=2"]
    return main(["generate", "data/argoverse2", f"scenarios.path={logs}", *small, "--out", str(out), *more])


def test_logs_become_samples_that_pass_the_check(logs, tmp_path, capsys):
    assert generate(logs, tmp_path / "set") == 0
    assert main(["check", str(tmp_path / "set")]) == 0
    dataset = open_dataset(tmp_path / "set")
    samples = [s for split in ("train", "val", "test") for s in dataset.samples(split)]
    assert {s.scenario_id[:4] for s in samples} == {"av2s", "av2m"}
    for sample in samples:
        assert {"traffic_lights", "speed_limits", "route"} <= set(sample.unknown)
        assert sample.speed_limit_mps is None
        assert "Speed limit: not known" in sample.prompt


def test_a_log_that_moved_is_checked_where_it_is_now(logs, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    write_sensor_log(before / "log-a")
    assert generate(before, tmp_path / "set") == 0
    before.rename(after)
    assert main(["check", str(tmp_path / "set")]) == 1
    assert main(["check", str(tmp_path / "set"), "--source", str(after)]) == 0


def test_a_broken_log_is_one_line_and_counted_and_the_rest_is_made(logs, tmp_path, capsys):
    write_sensor_log(tmp_path / "logs" / "good")
    broken = write_sensor_log(tmp_path / "logs" / "broken") or tmp_path / "logs" / "broken"
    annotations = next(broken.rglob("annotations.feather"))
    annotations.write_bytes(annotations.read_bytes()[:1000])
    assert generate(tmp_path / "logs", tmp_path / "set") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed:")]
    assert len(lines) == 1
    assert "annotations.feather" in lines[0]
    manifest = open_dataset(tmp_path / "set").manifest
    assert manifest["samples"] == 2
    assert len(manifest["failures"]) == 1
