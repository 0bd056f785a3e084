"""The deliberation of planners that weigh proposals, on real rollouts: every text holds, every blame is borne out."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from nsdrive.scenarios.synthetic import SyntheticConfig, build
from nsdrive.trace.build import build_trace
from nsdrive.trace.choice import blame_of
from nsdrive.trace.lines import lines_of, n_tokens
from nsdrive.trace.record import from_json, to_json
from nsdrive.trace.replay import arithmetic_errors, choice_errors, lateral_errors, progress_errors
from nsdrive.trace.rounding import MAX_TOKENS, recorded, rounded
from nsdrive.trace.text import parse, render
from nsdrive.world.decision import Decision
from nsdrive.world.scoring import TERMS, total
from nsdrive.world.simulate import simulate
from nsdrive.world.types import ObjectFrame, Observation, Planner, Rollout
from planners.pdm_closed import PdmClosedPlanner
from planners.pdm_lanes import PdmLanesPlanner

PLANNERS = {"pdm_closed": PdmClosedPlanner, "pdm_lanes": PdmLanesPlanner}
FAMILIES = ("construction", "cut_in", "unprotected_left", "lane_blocked", "red_light_lead")


@functools.cache
def drive(name: str, family: str) -> Rollout:
    config = SyntheticConfig(seed=11, families=(family,), n_scenarios=1)
    return simulate(build(config, 0), PLANNERS[name](), duration_s=9.0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PLANNERS)
def test_every_text_of_a_weighing_planner_holds_and_is_short(name, family):
    rollout = drive(name, family)
    for anchor in (0, 20, 40):
        trace, _ = build_trace(rollout, anchor)
        kept = recorded(trace)
        poses = np.array([s.pose for s in rollout.states[anchor : anchor + 51]])
        assert from_json(to_json(kept)) == kept
        assert choice_errors(kept) == []
        assert n_tokens(lines_of(rounded(kept, "detailed"), "detailed")) <= MAX_TOKENS
        for level in ("brief", "detailed"):
            read = parse(render(kept, level))
            assert read == rounded(kept, level) == rounded(trace, level)
            assert progress_errors(read, poses[:, :2]) == []
            assert lateral_errors(read, poses) == []
            assert choice_errors(read) == []
            assert arithmetic_errors(read, PLANNERS[name]().config) == []


def decide(rollout: Rollout, planner: Planner, tick: int, objects: ObjectFrame) -> Decision:
    """What a planner that has just been set down there decides."""
    planner.initialize(rollout.scenario.mission, rollout.states[0])
    history = (*rollout.history, *rollout.states[: tick + 1])
    observation = Observation(
        tick=tick,
        time_s=rollout.states[tick].time_s,
        ego=rollout.states[tick],
        ego_history=history,
        objects=objects,
        lights=rollout.lights[tick],
    )
    decision = planner.plan(observation).decision
    assert decision is not None
    return decision


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_object_that_a_term_blames_the_term_rises_or_blames_another(family):
    rollout = drive("pdm_closed", family)
    blamed = 0
    for tick in range(5, 80, 15):
        before = decide(rollout, PdmClosedPlanner(), tick, rollout.frames[tick])
        guilty = {t.about for p in before.proposals for t in p.terms if t.about is not None and t.value < 1.0}
        for thing in sorted(guilty):
            after = decide(rollout, PdmClosedPlanner(), tick, rollout.frames[tick].without({thing}))
            assert after.proposals != before.proposals
            for was, now in zip(before.proposals, after.proposals, strict=True):
                for old, new in zip(was.terms, now.terms, strict=True):
                    if old.about == thing:
                        blamed += 1
                        assert new.value > old.value or new.about not in (None, thing)
    assert blamed or family not in ("construction", "cut_in")


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_object_that_binds_the_decision_is_another(family):
    rollout = drive("pdm_closed", family)
    for tick in range(5, 80, 15):
        before = decide(rollout, PdmClosedPlanner(), tick, rollout.frames[tick])
        binding = before.binding_constraint
        if binding.rule == "lead" and not before.tied:
            after = decide(rollout, PdmClosedPlanner(), tick, rollout.frames[tick].without({binding.about}))
            assert (after.chosen, after.command_mps2) != (before.chosen, before.command_mps2)
            assert after.binding_constraint.about != binding.about


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PLANNERS)
def test_losers_lose_for_the_reason_that_is_stated(name, family):
    """With the winner's value of that term alone a weighted one shrinks the deficit most, a multiplier no longer excludes."""
    for plan in drive(name, family).plans[::7]:
        decision = plan.decision
        assert decision is not None
        if decision.chosen is None:
            continue
        winner = decision.proposals[decision.chosen]
        best = {t.name: t for t in winner.terms}
        for loser in decision.proposals:
            reason = blame_of(loser, winner).term
            if reason is None:
                assert loser.score == pytest.approx(winner.score, abs=1e-12)
                continue
            gain = {n: total([best[n] if t.name == n else t for t in loser.terms]) - loser.score for n in best}
            if TERMS[reason].weight is None:
                mended = replace(loser, terms=tuple(best[t.name] if t.name == reason else t for t in loser.terms))
                assert blame_of(mended, winner).term != reason
            else:
                assert gain[reason] == pytest.approx(max(gain.values()), abs=1e-12)
