"""Closed loop over scenarios: same numbers for any number of workers, failures counted, a resumed run equal to a whole one."""

import json
from functools import partial

import pytest

from eval.closed_loop import KEPT, SimulateConfig, closed_loop
from nsdrive.config import Chosen
from nsdrive.scenarios.synthetic import SyntheticConfig
from planners.idm import IdmConfig, IdmPlanner

CONFIG = SimulateConfig(
    scenarios=Chosen(
        name="synthetic", config=SyntheticConfig(n_scenarios=3, families=("red_light", "free_road", "stopped_lead"))
    ),
    planner=Chosen(name="idm", config=IdmConfig()),
)
MAKE = partial(IdmPlanner, IdmConfig())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("closed") / "loop"
    return out, closed_loop(CONFIG, MAKE, out=out)


def test_idm_stops_at_the_red_light_and_behind_the_stopped_lead_and_collides_with_nobody(run):
    _, done = run
    red, free, lead = done.rows
    assert all(row["collided_with"] == [] for row in done.rows)
    assert red["final_speed_mps"] < 0.5
    assert red["binding_ticks"]["red_light"] > 30
    assert free["final_speed_mps"] > 5.0
    assert (
        lead["min_clearance_m"] > 0.1
    )  # nuPlan's tracker lags behind a braking lead and eases out of the last 0.2 m/s
    assert "all" in done.table()


def test_a_resumed_run_writes_the_same_bytes(run, tmp_path):
    out, _ = run
    closed_loop(CONFIG, MAKE, out=tmp_path / "again")
    (tmp_path / "again" / "results.json").unlink()
    closed_loop(CONFIG, MAKE, out=tmp_path / "again", resume=True)
    for name in ("results.json", "rollouts.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    assert not (out / KEPT).exists()


def test_a_scenario_that_cannot_be_driven_is_a_counted_failure(tmp_path):
    class Broken(IdmPlanner):
        def plan(self, observation):
            raise ValueError("the wheel came off")

    done = closed_loop(CONFIG, Broken, out=tmp_path / "broken")
    assert len(done.failures) == 3
    assert "the wheel came off" in done.failures[0]
    assert json.loads((tmp_path / "broken" / "results.json").read_text())["scenarios"] == []
