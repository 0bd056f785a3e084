"""From the text alone: the motion it implies is the label's, its arithmetic holds, and a lie is found."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from scenes import scene, straight_road, thing

from nsdrive.scenarios.synthetic import FAMILIES, SyntheticConfig, build
from nsdrive.trace.build import build_trace
from nsdrive.trace.replay import arithmetic_errors, evaluation_errors, lateral_errors, progress_errors, replay
from nsdrive.trace.rounding import rounded
from nsdrive.trace.templates import pattern
from nsdrive.trace.text import parse, render
from nsdrive.world.route import centerline, find_route, nearest_lane
from nsdrive.world.rules import evaluate
from nsdrive.world.simulate import simulate
from nsdrive.world.types import Rollout
from planners.idm import IdmConfig, IdmPlanner
from planners.pdm_lanes import PdmLanesPlanner

CONFIG = IdmConfig()


def path_of(rollout: Rollout):
    mission = rollout.scenario.mission
    start = nearest_lane(mission.lane_map, rollout.states[0].pose, frozenset(mission.route_roadblock_ids))
    return centerline(
        mission.lane_map, find_route(mission.lane_map, start, mission.goal_m, mission.route_roadblock_ids)
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_text_replays_to_its_label_and_keeps_its_arithmetic(family):
    config = SyntheticConfig(seed=11, families=(family,), n_scenarios=1)
    rollout = simulate(build(config, 0), IdmPlanner())
    path = path_of(rollout)
    for anchor in range(0, len(rollout.states) - 50, 20):
        trace, _ = build_trace(rollout, anchor)
        poses = np.array([s.pose for s in rollout.states[anchor : anchor + 51]])
        for level in ("brief", "detailed"):
            text = render(trace, level)
            read = parse(text)
            assert read == rounded(trace, level)
            assert re.fullmatch(pattern(level), text)
            assert progress_errors(read, poses[:, :2]) == []
            assert arithmetic_errors(read, CONFIG) == []
            assert lateral_errors(read, poses, path) == []


@pytest.mark.parametrize("off", [0.0, 0.004, 0.009, 0.011, 0.03, -0.02])
def test_a_result_is_refused_only_if_no_inputs_that_round_to_the_printed_ones_give_it(off):
    """The check stops at the first inputs that do; asking for all of them comes to the same."""
    rng = np.random.default_rng([7])
    for _ in range(40):
        speed, target, gap, lead_speed = (round(float(v), 2) for v in rng.uniform((0, 5, 3, 0), (20, 25, 80, 20)))
        said = {"gap_m": round(gap, 1), "lead_speed_mps": round(lead_speed, 1)}
        made = evaluate("lead", "a", said, speed, CONFIG, target_speed_mps=target)
        stated = replace(made, threshold=round(made.threshold, 1), allows_mps2=round(made.allows_mps2, 2) + off)
        reach = [
            evaluate(
                "lead",
                "a",
                {"gap_m": said["gap_m"] + dg, "lead_speed_mps": max(0.0, said["lead_speed_mps"] + dl)},
                max(0.0, speed + dv),
                CONFIG,
                target_speed_mps=target + dt,
            ).allows_mps2
            for dg, dl, dv, dt in itertools.product(
                (-0.05, 0.0, 0.05), (-0.05, 0.0, 0.05), (-0.005, 0.0, 0.005), (-0.005, 0.0, 0.005)
            )
        ]
        possible = min(reach) - 0.005 - 1e-9 <= stated.allows_mps2 <= max(reach) + 0.005 + 1e-9
        assert (evaluation_errors(stated, speed, target, CONFIG) == []) == possible


@pytest.fixture(scope="module")
def braking() -> tuple[str, np.ndarray, Rollout]:
    objects = (thing("lead", 30.0, 0.0, 4.0),)
    rollout = simulate(scene(straight_road(), objects=objects, seconds=8.0), IdmPlanner())
    poses = np.array([s.pose for s in rollout.states[:51]])
    return render(build_trace(rollout, 0)[0], "detailed"), poses, rollout


def test_replay_along_a_path_gives_poses(braking):
    text, poses, rollout = braking
    path = path_of(rollout)
    start = path.project(*poses[0, :2])[0]
    replayed = replay(parse(text), path, start)
    assert np.abs(replayed.poses_global[:, :2] - poses[::5, :2]).max() < 0.05


def test_replay_never_drives_backwards(braking):
    read = parse(braking[0])
    still = replace(
        read, steps=tuple(replace(s, speed_mps=0.0, accel_mps2=-0.5 * (k % 2)) for k, s in enumerate(read.steps))
    )
    assert (np.diff(replay(still).progress_m) >= 0.0).all()


def lie(text: str, pattern_: str, put: str) -> str:
    changed = re.sub(pattern_, put, text, count=1)
    assert changed != text
    return changed


def test_a_wrong_speed_misses_the_label(braking):
    text, poses, _ = braking
    wrong = lie(text, r"\n1\.0 speed (\d)", r"\n1.0 speed 2\1")
    assert progress_errors(parse(wrong), poses[:, :2])


@pytest.mark.parametrize(
    ("pattern_", "put", "says"),
    [
        (r"needs (\d+)\.", r"needs 9\1.", "threshold"),
        (r"(lead .*) allows -\d", r"\1 allows -0", "allows_mps2"),
        (r"gap \d", "gap 9", "lead"),
        (r"(allows [0-9.]+)\n(lead .*) binds", r"\1 binds\n\2", "said to bind"),
    ],
)
def test_a_changed_number_or_verdict_is_found(braking, pattern_, put, says):
    wrong = parse(lie(braking[0], pattern_, put))
    assert any(says in error for error in arithmetic_errors(wrong, CONFIG))


def test_a_brief_text_that_claims_to_brake_while_its_speeds_rise_is_found(braking):
    trace = parse(braking[0])
    brief = lie(render(trace, "brief"), "brake", "accelerate")
    assert any("said to accelerate, but the speeds brake" in error for error in arithmetic_errors(parse(brief), CONFIG))


def test_other_parameters_do_not_explain_the_numbers(braking):
    assert arithmetic_errors(parse(braking[0]), replace(CONFIG, headway_s=1.0))


def test_a_wrong_turn_or_offset_is_found(braking):
    text, poses, rollout = braking
    assert lateral_errors(parse(text), poses, path_of(rollout)) == []
    turned = lateral_errors(parse(lie(text, "turned 0 deg", "turned 40 deg")), poses)
    assert turned == ["the text says that the ego turned 40 deg, the label 0.0"]
    offset = lie(text, r"(\n2\.0 speed .*)\n", r"\1 offset 0.5\n")
    assert any("t=2.0" in error for error in lateral_errors(parse(offset), poses, path_of(rollout)))
    route = lie(text, r"Route: [^,]*", "Route: turn left in 5 m")
    assert any("turn left" in error for error in lateral_errors(parse(route), poses))


def test_an_offset_that_leaps_without_a_lane_change_is_found():
    config = SyntheticConfig(seed=11, families=("route_lane_change",), n_scenarios=1)
    rollout = simulate(build(config, 0), PdmLanesPlanner(), duration_s=6.0)
    text = render(build_trace(rollout, 0)[0], "detailed")
    poses = np.array([s.pose for s in rollout.states[:51]])
    offsets = [s.lateral_offset_m for s in parse(text).steps]
    assert max(abs(a - b) for a, b in itertools.pairwise(offsets)) > 2.0
    assert "choose change_left" in text
    assert lateral_errors(parse(text), poses) == []
    unsaid = parse(text.replace("choose change_left", "choose keep"))
    assert any("no change_left is chosen" in error for error in lateral_errors(unsaid, poses))
