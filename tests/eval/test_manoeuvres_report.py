"""The manoeuvre table of the report: every planner beside the others, each verdict with its number, each drive with its picture."""

import json
from functools import partial

import numpy as np
import pytest

from eval.closed_loop.drive import SimulateConfig, closed_loop
from eval.manoeuvres.pictures import Drive, picture, view_of
from eval.report.compose import report
from nsdrive.config import Chosen
from nsdrive.dataset import json_line
from nsdrive.scenarios.manoeuvres import ManoeuvresConfig, load_manoeuvre
from planners.idm import IdmConfig, IdmPlanner

NAMES = ("red_light_at_10", "pedestrian_no_crosswalk", "blocked_lane_free_neighbour")
MAKE = partial(IdmPlanner, IdmConfig())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = []
    for folder, agents in (("as_written", "replay"), ("answering", "reactive")):
        config = SimulateConfig(
            scenarios=Chosen(name="manoeuvres", config=ManoeuvresConfig(names=NAMES)),
            planner=Chosen(name="idm", config=IdmConfig()),
            agents=agents,
        )
        made.append(tmp_path_factory.mktemp("runs") / folder)
        done = closed_loop(config, MAKE, MAKE, out=made[-1])
        assert "2 of 3 manoeuvres passed" in done.table()
    return made


def test_the_report_shows_every_manoeuvre_with_a_picture_per_run(folders, tmp_path):
    page = report(folders, tmp_path / "report").read_text()
    for name in NAMES:
        assert page.count(f'id="m-{name}"') == 1
        assert page.count(f": {name}</title>") == 2
    assert "Someone walks slowly across the open road" in page
    assert "runs into person-1" in page
    assert "not expected" in page
    assert "1 wholly, 1 as far as expected" in page
    assert "idm (as_written)" in page
    assert "idm (answering)" in page
    assert page.count('class="hit"') == 1  # nobody knows where the others were who reacted
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Manoeuvres" in text
    assert "FAIL no at-fault collision: runs into person-1" in text


def test_a_run_of_manoeuvres_whose_rollouts_are_gone_is_refused_in_one_line(folders, tmp_path):
    kept = (folders[0] / "results.json").read_text()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(kept)
    with pytest.raises(FileNotFoundError, match=r"no rollouts.jsonl: run `nsdrive simulate` again"):
        report([tmp_path / "run"], tmp_path / "report")


def test_drives_through_a_manoeuvre_that_has_changed_since_are_refused_in_one_line(folders, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("results.json", "rollouts.jsonl"):
        (tmp_path / "run" / name).write_text((folders[0] / name).read_text())
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    for row in rows:
        row["states"] = row["states"][:-5]
    (tmp_path / "run" / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="is not as long as the manoeuvre is now"):
        report([tmp_path / "run"], tmp_path / "report")


def test_a_planner_may_say_what_ends_a_line_elsewhere(folders, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text((folders[0] / "results.json").read_text())
    lines = (folders[0] / "rollouts.jsonl").read_text().split("\n")[:-1]
    said = [json.loads(line) | {"said": [{"state": 0, "text": "I stop.\u2028There is a\x85light."}]} for line in lines]
    (tmp_path / "run" / "rollouts.jsonl").write_text("".join(json_line(row) for row in said), encoding="utf-8")
    page = report([tmp_path / "run"], tmp_path / "report").read_text(encoding="utf-8")
    assert page.count("</title>") >= len(NAMES)


def test_a_picture_is_to_scale_and_the_same_window_holds_every_planner():
    scene = load_manoeuvre("cut_in_close")
    start = scene.ego_log[-1]
    along = np.array([np.cos(start.heading_rad), np.sin(start.heading_rad)])

    def straight(speed_mps):
        driven = speed_mps * 0.1 * np.arange(121)
        places = np.array([start.x_m, start.y_m]) + driven[:, None] * along
        rest = np.tile([start.heading_rad, speed_mps], (121, 1))
        return Drive(states=np.column_stack([places, rest]), replayed=True)

    slow, fast = straight(3.0), straight(12.0)
    view = view_of([slow, fast])
    ends = view.pixels(np.array([slow.states[-1, :2], fast.states[-1, :2]]))
    assert np.ptp(ends[:, 0]) / view.scale == pytest.approx(9.0 * 12.0)
    assert (ends > 0.0).all()
    assert ends[:, 0].max() < 400.0
    shown = picture(scene, slow, view, "a <b>")
    assert shown == picture(scene, slow, view, "a <b>")
    assert "<title>a &lt;b&gt;</title>" in shown
    assert shown.count('class="other vehicle"') == 1
