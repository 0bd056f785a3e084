"""PDM-Closed as a driver would judge it, and against drives recorded from the public code."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import scene, straight_road, thing

from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource
from nsdrive.scenarios.synthetic import SyntheticConfig, build
from nsdrive.world.scoring import is_consistent, ranking, reason
from nsdrive.world.simulate import simulate
from planners.pdm_closed import PdmClosedConfig, PdmClosedPlanner

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "data" / "nuplan_reference"
TOKENS = ("6a97ce5e63b4469e", "8ea772b489221b17", "e5681404efac4c17")


def scenario_of(family: str, seed: int = 1):
    return build(SyntheticConfig(seed=seed, families=(family,), n_scenarios=1), 0)


def drive(scenario, seconds=None, **settings):
    return simulate(scenario, PdmClosedPlanner(PdmClosedConfig(**settings)), duration_s=seconds)


def decisions(rollout):
    return [plan.decision for plan in rollout.plans]


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the recorded drives")
@pytest.mark.parametrize("token", TOKENS)
def test_for_15_s_the_ego_is_where_the_public_code_drove_it(token):
    source = NuplanSource(NuplanConfig(path=str(REFERENCE / "logs"), maps_path=str(REFERENCE / "maps")))
    states = drive(source.load(token)).states
    with (REFERENCE / "trajectories" / f"nonreactive_pdm_closed_{token}.csv").open() as file:
        rows = [[float(row[key]) for key in ("x_m", "y_m", "speed_mps")] for row in csv.DictReader(file)]
    ours = np.array([[s.x_m, s.y_m, s.speed_mps] for s in states[: len(rows)]])
    assert len(rows) == 150
    assert np.abs(ours - np.array(rows)).max() < 1e-5  # the recording has six decimals


@pytest.mark.parametrize("family", ["cut_in", "left_turn"])
def test_the_fast_engine_decides_as_the_readable_one(family):
    scenario = scenario_of(family)
    fast, readable = (decisions(drive(scenario, 0.2, engine=engine)) for engine in ("fast", "readable"))
    for a, b in zip(fast, readable, strict=True):
        assert (a.chosen, a.runner_up, a.binding) == (b.chosen, b.runner_up, b.binding)
        for p, q in zip(a.proposals, b.proposals, strict=True):
            assert p.score == pytest.approx(q.score, abs=1e-9)
            assert [(t.name, t.about) for t in p.terms] == [(t.name, t.about) for t in q.terms]


@pytest.mark.parametrize("family", ["stopped_lead", "cut_in", "construction", "curve"])
def test_every_score_follows_from_its_recorded_terms_and_the_best_is_driven(family):
    for d in decisions(drive(scenario_of(family), 8.0)):
        assert len(d.proposals) == 15
        assert all(is_consistent(p, 0.0) for p in d.proposals)
        assert (d.chosen, d.runner_up) == ranking([p.score for p in d.proposals])


def test_a_loser_given_the_winners_value_of_the_term_it_is_said_to_lose_for_does_better():
    seen = 0
    for d in decisions(drive(scenario_of("cut_in"), 6.0))[::5]:
        winner = d.proposals[d.chosen]
        best = {t.name: t.value for t in winner.terms}
        for p in d.proposals:
            if p.score < winner.score:
                why = reason(p, winner)
                mended = replace(
                    p, terms=tuple(replace(t, value=best[t.name]) if t.name == why else t for t in p.terms)
                )
                product = np.prod([t.value for t in mended.terms[:3]])
                assert product >= np.prod([t.value for t in p.terms[:3]])
                assert why is not None
                seen += 1
    assert seen > 50


def test_it_stops_behind_a_parked_car_without_touching_it():
    parked = thing("parked", 80.0)
    states = drive(scene(straight_road(), speed_mps=8.0, objects=(parked,))).states
    gap = 80.0 - 0.5 * 4.7 - (states[-1].x_m + 4.049)
    assert states[-1].speed_mps < 0.1
    assert 0.0 < gap < 4.0


def test_without_the_car_that_the_lead_rule_blames_the_decision_is_another():
    parked = thing("parked", 45.0)
    with_car, without = (drive(scene(straight_road(), speed_mps=8.0, objects=o), 1.0) for o in ((parked,), ()))
    blamed = decisions(with_car)[0].binding_constraint
    assert (blamed.rule, blamed.about) == ("lead", "parked")
    assert decisions(without)[0].command_mps2 > decisions(with_car)[0].command_mps2 + 0.5


def test_when_even_the_best_proposal_hits_something_soon_a_slow_ego_brakes_hard_and_says_so():
    wall = tuple(thing(f"wall-{k}", 22.0, -4.5 + 1.5 * k) for k in range(7))
    rollout = drive(scene(straight_road(), speed_mps=4.9, objects=wall), 1.5)
    braking = [d for d in decisions(rollout) if d.binding_constraint.rule == "emergency_brake"]
    assert braking
    assert braking[0].binding_constraint.about in {w.track_id for w in wall}
    assert braking[0].command_mps2 == -PdmClosedConfig().emergency_decel_mps2
    assert min(s.accel_mps2 for s in rollout.states) < -2.0


def test_the_same_drive_twice_is_the_same_to_the_last_bit():
    scenario = scenario_of("dense_queue")
    assert decisions(drive(scenario, 3.0)) == decisions(drive(scenario, 3.0))


def test_mended_the_ego_no_longer_brakes_in_the_first_tenth_of_every_plan():
    free = scene(straight_road(), speed_mps=8.0)
    public, mended = (
        drive(free, 3.0, reference=reference).plans[0].trajectory.speeds_mps[1] for reference in (True, False)
    )
    assert public < 8.0 <= mended
