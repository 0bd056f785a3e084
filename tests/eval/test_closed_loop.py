"""Closed loop over scenarios: same numbers for any number of workers, failures counted, a resumed run equal to a whole one."""

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from eval.closed_loop import drive
from eval.closed_loop.drive import KEPT, SimulateConfig, closed_loop, summary
from eval.closed_loop.tables import ClosedLoopRun, by_family, by_type, closed_loop_markdown, overall
from eval.closed_loop.timing import read_timing
from eval.report.compose import report
from eval.score import TERMS, total
from nsdrive.cli import main
from nsdrive.config import Chosen
from nsdrive.scenarios.synthetic import SyntheticConfig, SyntheticSource
from nsdrive.vla.prompt import render_answer
from nsdrive.world.decision import KEPT_PLAN, LATE_ANSWER
from nsdrive.world.types import HISTORY_TICKS
from planners.idm import IdmConfig, IdmPlanner

CONFIG = SimulateConfig(
    scenarios=Chosen(
        name="synthetic", config=SyntheticConfig(n_scenarios=3, families=("red_light", "free_road", "stopped_lead"))
    ),
    planner=Chosen(name="idm", config=IdmConfig()),
)
BRIEF = replace(CONFIG, duration_s=1.0)
MAKE = partial(IdmPlanner, IdmConfig())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("closed") / "loop"
    return out, closed_loop(CONFIG, MAKE, MAKE, out=out)


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
    closed_loop(CONFIG, MAKE, MAKE, out=tmp_path / "again")
    (tmp_path / "again" / "results.json").unlink()
    closed_loop(CONFIG, MAKE, MAKE, out=tmp_path / "again", resume=True)
    for name in ("results.json", "rollouts.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    assert not (out / KEPT).exists()


def test_a_source_without_scenarios_is_refused_and_leaves_nothing_behind(tmp_path):
    nothing = replace(CONFIG, scenarios=Chosen(name="synthetic", config=SyntheticConfig(n_scenarios=0)))
    with pytest.raises(ValueError, match="The source 'synthetic' holds no scenarios: nothing to drive"):
        closed_loop(nothing, MAKE, MAKE, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.fixture
def killed(tmp_path):
    """A run of a model's weights "a" that ended after its first scenario."""

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        closed_loop(BRIEF, MAKE, MAKE, out=tmp_path / "killed", weights="a", progress=stop)
    return tmp_path / "killed"


def test_a_run_is_not_gone_on_with_for_other_scenarios_or_another_training(killed, monkeypatch):
    resumed = partial(closed_loop, BRIEF, MAKE, MAKE, out=killed, resume=True)
    for weights in ("b", None):
        with pytest.raises(ValueError, match=r"other settings or data \(weights: 'a' -> "):
            resumed(weights=weights)
    items = SyntheticSource.items
    with monkeypatch.context() as patch:
        patch.setattr(SyntheticSource, "items", lambda self: ("syn-curve-000000-s0", *items(self)[:2]))
        with pytest.raises(ValueError, match=r"other settings or data \(items: "):
            resumed(weights="a")
    whole = resumed(weights="a")
    assert len({row["item"] for row in whole.rows}) == 3


def test_a_kept_drive_of_another_scenario_is_refused(killed):
    shutil.copy(killed / KEPT / "000000.json", killed / KEPT / "000001.json")
    with pytest.raises(ValueError, match=r"000001\.json is of 'syn-red_light-.*', not of 'syn-free_road-"):
        closed_loop(BRIEF, MAKE, MAKE, out=killed, weights="a", resume=True)


def test_a_finished_run_that_is_resumed_is_read_and_not_driven(run, tmp_path):
    def nobody():
        raise AssertionError("a planner was made")

    out, done = run
    shutil.copytree(out, tmp_path / "copy")
    assert closed_loop(CONFIG, nobody, nobody, out=tmp_path / "copy", resume=True) == done
    with pytest.raises(ValueError, match="other settings or data"):
        closed_loop(replace(CONFIG, agents="reactive"), nobody, nobody, out=tmp_path / "copy", resume=True)


def test_simulate_tells_a_models_weights_by_their_fingerprint(tmp_path, monkeypatch):
    told = []

    def stop(config, *planners, weights, **how):
        told.append(weights)
        raise ValueError("enough")

    monkeypatch.setattr(drive, "closed_loop", stop)
    monkeypatch.setattr("nsdrive.vla.fingerprint.fingerprint_of", lambda model: f"fingerprint of {model}")
    simulate = ["simulate", "simulate/synthetic", "--out", str(tmp_path / "out")]
    for planner in (["planner=vla", "planner.model=m"], ["planner=vla"], ["planner=idm"]):
        assert main([*simulate, *planner]) == 1
    assert told == ["fingerprint of m", None, None]


def test_a_scenario_that_cannot_be_driven_is_a_counted_failure(tmp_path):
    class Broken(IdmPlanner):
        def plan(self, observation):
            raise ValueError("the wheel came off")

    done = closed_loop(CONFIG, Broken, MAKE, out=tmp_path / "broken")
    assert len(done.failures) == 3
    assert "the wheel came off" in done.failures[0]["error"]
    written = json.loads((tmp_path / "broken" / "results.json").read_text())
    assert written["scenarios"] == []
    assert written["summary"]["all"]["score"] == 0.0
    assert written["summary"]["all"]["failed"] == written["summary"]["all"]["n"] == 3


def test_half_of_the_scenarios_failing_halves_the_score(run):
    _, done = run
    good = [row for row in done.rows if row["scenario_type"] == done.rows[1]["scenario_type"]]
    failed = [{"item": "lost", "scenario_type": good[0]["scenario_type"], "error": "no file"}]
    assert summary(good, failed)["all"]["score"] == pytest.approx(good[0]["score"] / 2, abs=1e-4)
    assert summary(good, failed)["all"]["terms"]["ego_is_comfortable"] == 0.5


def test_every_row_has_a_score_that_its_printed_terms_make(run):
    _, done = run
    for row in done.rows:
        assert row["score"] == total(row["terms"])
        assert row["expert"] == "free drive"
    assert done.rows[1]["score"] > 0.95  # a free road
    assert "not loaded" not in done.table()


def test_what_a_planner_notes_is_counted_and_printed(tmp_path):
    class Lost(IdmPlanner):
        def plan(self, observation):
            planned = super().plan(observation)
            return replace(planned, decision=replace(planned.decision, notes=("there is no route",)))

    done = closed_loop(CONFIG, Lost, MAKE, out=tmp_path / "lost")
    ticks = [row["ticks"] + 1 for row in done.rows]
    assert [row["notes"] for row in done.rows] == [{"there is no route": n} for n in ticks]
    assert f"noted at {sum(ticks)} ticks of 3 scenarios: there is no route" in done.table()


class Speaker(IdmPlanner):
    """Asked every half second; every second answer is late, and every fourth of no use."""

    def plan(self, observation):
        planned = super().plan(observation)
        turn, between = divmod(observation.tick - HISTORY_TICKS, 5)
        if between:
            return replace(planned, decision=None)
        notes = (
            *((f"{LATE_ANSWER}0.30 s",) if turn % 2 else ()),
            *((f"{KEPT_PLAN}0 waypoints",) if turn % 4 == 3 else ()),
        )
        said = "no idea" if turn % 4 == 3 else render_answer("", np.zeros((10, 2)))
        return replace(planned, decision=None, said=said, notes=notes, seconds=0.25 + turn)


def test_late_and_unreadable_answers_are_counted_for_each_scenario_and_in_all(tmp_path):
    done = closed_loop(replace(CONFIG, duration_s=3.8), Speaker, MAKE, out=tmp_path / "speaks")
    each = {"asked": 8, "late": 4, "unreadable": 2}
    assert [row["answers"] for row in done.rows] == [each] * 3
    written = json.loads((tmp_path / "speaks" / "results.json").read_text())
    assert written["summary"]["all"]["answers"] == {name: 3 * n for name, n in each.items()}
    assert "answers: 24 asked, 12 late, 6 unreadable" in done.table()
    timing = json.loads((tmp_path / "speaks" / "timing.json").read_text())
    assert timing["per_answer"]["n"] == 24
    assert (timing["per_answer"]["mean_s"], timing["per_answer"]["max_s"]) == (3.75, 7.25)
    text = report([tmp_path / "speaks"], tmp_path / "report").with_name("report.md").read_text(encoding="utf-8")
    assert "Answers of a model" in text
    assert "50.0 %" in text
    assert "7.2500" in text


def test_how_long_a_planner_thinks_is_measured_and_kept_out_of_what_must_not_differ(run, tmp_path):
    class Slow(IdmPlanner):
        def plan(self, observation):
            time.sleep(0.002)
            return super().plan(observation)

    out, quick = run
    slow = closed_loop(replace(CONFIG, duration_s=1.0), Slow, MAKE, out=tmp_path / "slow")
    again = closed_loop(replace(CONFIG, duration_s=1.0), MAKE, MAKE, out=tmp_path / "quick")
    for name in ("results.json", "rollouts.jsonl"):
        assert (tmp_path / "slow" / name).read_bytes() == (tmp_path / "quick" / name).read_bytes()
    assert slow.timing["per_tick"]["p50_s"] > 0.002 > again.timing["per_tick"]["p50_s"]
    assert slow.timing["per_answer"] is None
    assert [row["per_tick"]["n"] for row in slow.timing["scenarios"]] == [11, 11, 11]
    assert "seconds per tick" in quick.table()
    assert "answers" not in quick.rows[0]
    assert "films" not in json.loads((out / "results.json").read_text())


def test_a_broken_timing_is_left_out_and_nothing_else(run, tmp_path):
    out, _ = run
    for broken in (
        None,
        "",
        "[]",
        '{"per_tick": 3, "per_answer": null}',
        '{"per_tick": {"n": "many"}, "per_answer": null}',
    ):
        folder = tmp_path / "copy"
        shutil.copytree(out, folder)
        (folder / "timing.json").unlink()
        if broken is not None:
            (folder / "timing.json").write_text(broken)
        assert read_timing(folder) is None
        text = report([folder], tmp_path / "report", overwrite=True).with_name("report.md").read_text(encoding="utf-8")
        assert "Closed loop" in text
        assert "planner thinks" not in text
        shutil.rmtree(folder)


def test_the_report_names_scores_and_failures(run, tmp_path):
    out, _ = run

    class Broken(IdmPlanner):
        def plan(self, observation):
            raise ValueError("the wheel came off")

    closed_loop(CONFIG, Broken, MAKE, out=tmp_path / "broken")
    text = report([out, tmp_path / "broken"], tmp_path / "report").with_name("report.md").read_text(encoding="utf-8")
    assert "the wheel came off" in text
    assert "not driven" in text
    assert "0.0000" in text
    assert "closed-loop score" in text
    assert "broken minus loop" in text
    mean = sum(row["score"] for row in run[1].rows) / 3
    assert f"{-mean:+.4f}" in text, "against nothing driven, all of the score is lost"


def drives(name, items, score, *, failed=(), **config):
    """A run's results, of as many fields as the tables compared here read."""
    row = {"family": "curve", "scenario_type": "bend", "planner": name, "collided_with": [], "score": score}
    rows = [row | {"item": item, "terms": dict.fromkeys(TERMS, score)} for item in items]
    failures = [{"item": item, "scenario_type": "bend", "error": "gone"} for item in failed]
    results = {"config": {"agents": "replay"} | config, "scenarios": rows, "failures": failures}
    return ClosedLoopRun(folder=Path(name), results=results | {"summary": summary(rows, failures)})


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (drives("b", "xy", 0.9), "2 scenarios in common, of 2 and 3"),
        (drives("b", "xyz", 0.9, failed="w"), "3 scenarios in common, of 4 and 3"),
        (drives("b", "xyz", 0.9, agents="reactive"), "3 scenarios in common, of 3 and 3; agents: reactive and replay"),
        (drives("b", "xyz", 0.9, duration_s=2.0), "duration_s: 2.0 and None"),
        (drives("b", "", 0.9, failed="xyz"), None),
        (drives("b", "xyz", 0.9), None),
    ],
)
def test_only_runs_of_the_same_scenarios_among_the_same_agents_are_compared(other, says):
    first, third = drives("a", "xyz", 0.5), drives("c", "xyz", 0.4)
    runs = [first, other, third]
    text = "\n".join(closed_loop_markdown(runs)).replace("\\", "")
    assert ("- b: not compared with a: " in text) == (says is not None)
    assert (says or "") in text
    assert ("b minus a" in text) == (says is None)
    assert "c minus a" in text
    of_all = [row[3].best for row in overall(runs).rows]
    assert of_all == ([True, False, False] if says or not other.rows else [False, True, False])
    assert [cell.best for cell in by_type(runs).rows[0][1:]] == of_all
    assert [cell.best for cell in by_family(runs).rows[0][1:]] == of_all
