"""What a trace says of a rollout: names that cameras can bear out, facts that the scene has, phases that the steps make."""

import numpy as np
import pytest
from scenes import scene, straight_road, thing

from nsdrive.trace.build import build_trace
from nsdrive.trace.text import parse, render
from nsdrive.trace.trace import N_STEPS, STEP_S, manoeuvre
from nsdrive.world.simulate import simulate
from nsdrive.world.types import Plan, Rollout
from planners.idm import IdmPlanner


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    objects = (
        thing("far", 55.0, 3.5, 6.0),
        thing("lead", 20.0, 0.0, 7.0),
        thing("behind", -12.0, 0.0, 9.0),
        thing("walker", 40.0, -6.0, 0.0, kind="pedestrian"),
    )
    return simulate(scene(straight_road(), objects=objects, seconds=8.0), IdmPlanner())


def test_objects_are_named_by_kind_nearest_first_and_found_where_they_are(rollout):
    trace, names = build_trace(rollout, 0)
    facts = {o.name: o for o in trace.objects}
    assert [o.distance_m for o in trace.objects] == sorted(o.distance_m for o in trace.objects)
    assert {name: names[name] for name in facts} == {
        "vehicle-1": "behind",
        "vehicle-2": "lead",
        "pedestrian-1": "walker",
        "vehicle-3": "far",
    }
    # At the anchor, 2 s in, the lead's centre is at 34 m and the ego's front at 14.05 m.
    assert facts["vehicle-2"].distance_m == pytest.approx(34.0 - 4.7 / 2 - 14.049, abs=1e-3)
    assert (facts["vehicle-2"].sector, facts["vehicle-1"].sector) == ("ahead", "behind")
    assert facts["pedestrian-1"].sector in ("ahead", "ahead-right")
    assert facts["vehicle-2"].speed_mps == pytest.approx(7.0)


def test_the_steps_are_the_decisions_each_half_second(rollout):
    trace, names = build_trace(rollout, 10)
    assert len(trace.steps) == N_STEPS
    for k, step in enumerate(trace.steps):
        decision = rollout.plans[10 + 5 * k].decision
        assert step.time_s == k * STEP_S
        assert (step.speed_mps, step.command_mps2) == (decision.speed_mps, decision.command_mps2)
        for said, was in zip(step.constraints, decision.constraints, strict=True):
            assert (said.rule, said.inputs, said.threshold) == (was.rule, was.inputs, was.threshold)
            assert (None if said.about is None else names[said.about]) == was.about


def test_what_no_camera_sees_is_marked_and_never_named_as_seen(rollout):
    seen = {"CAM_F0": {"far": 400}, "CAM_R0": {"walker": 80, "far": 30}}
    trace, names = build_trace(rollout, 0, seen=seen)
    assert names["hidden-1"] == "lead"
    assert "behind" not in names.values()
    facts = {o.name: o for o in trace.objects}
    assert facts["vehicle-1"].cameras == ("CAM_F0", "CAM_R0")
    assert facts["hidden-1"].cameras == ()
    assert trace.scene.in_view == (("vehicle", 1), ("pedestrian", 1))
    text = render(trace, "detailed")
    assert "lead hidden-1 gap" in text
    assert "hidden-1 (vehicle) 17.6 m ahead, 7.0 m/s, not seen" in text.split("\n")


def test_an_object_that_comes_after_the_anchor_has_no_facts_at_it():
    def late(t):
        return [thing("late", 60.0)] if t > 4.0 else []

    rollout = simulate(scene(straight_road(), objects=late, seconds=8.0), IdmPlanner())
    trace, names = build_trace(rollout, 0, seen={"CAM_F0": {}})
    assert names == {"hidden-1": "late"}
    assert "hidden-1 (vehicle) comes later" in render(trace, "detailed").split("\n")
    assert parse(render(trace, "brief")).objects == trace.objects


def test_at_most_eight_objects_are_listed_those_that_a_rule_names_first():
    crowd = tuple(thing(f"p{i:02d}", 12.0 + 0.8 * i, 5.0, kind="pedestrian") for i in range(12))
    rollout = simulate(scene(straight_road(), objects=(*crowd, thing("lead", 75.0)), seconds=8.0), IdmPlanner())
    trace, names = build_trace(rollout, 0)
    assert len(trace.objects) == 8
    assert names[trace.objects[-1].name] == "lead"


def test_phases_follow_the_binding_rule_and_tell_the_manoeuvre():
    rollout = simulate(
        scene(straight_road(stop="traffic_light"), 9.0, 55.0, lights=lambda t: {"x": "red"}, seconds=13.0), IdmPlanner()
    )
    first, _ = build_trace(rollout, 0)
    assert [(p.rule, p.about, p.manoeuvre) for p in first.phases][-1] == ("red_light", "signal-1", "brake")
    last, _ = build_trace(rollout, 60)
    assert last.phases[-1].manoeuvre in ("stop", "stand")
    assert first.phases[0].start_s == 0.0
    assert first.phases[-1].end_s == 5.0


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (0.0, 0.1, "stand"),
        (3.0, 0.1, "stop"),
        (0.0, 2.0, "pull away"),
        (5.0, 7.0, "accelerate"),
        (7.0, 5.0, "brake"),
        (7.0, 7.1, "keep speed"),
    ],
)
def test_a_manoeuvre_is_what_the_speeds_do(before, after, what):
    assert manoeuvre(before, after, 2.0) == what


def test_a_turn_and_an_offset_are_told():
    t = np.linspace(0.0, np.pi / 2, 60)
    from scenes import road

    bend = np.vstack(
        [[[0.0, 0.0]], np.column_stack([40.0 + 15.0 * np.sin(t), 15.0 - 15.0 * np.cos(t)]), [[55.0, 300.0]]]
    )
    rollout = simulate(scene(road(bend), 5.0, 30.0, seconds=8.0), IdmPlanner())
    trace, _ = build_trace(rollout, 0)
    assert 45.0 < trace.end.turned_deg < 95.0


def test_a_rollout_that_is_too_short_or_silent_is_refused(rollout):
    with pytest.raises(ValueError, match="needs 50 ticks after its anchor 30"):
        build_trace(rollout, 30)
    plans = tuple(Plan(trajectory=p.trajectory, decision=None) for p in rollout.plans)
    silent = Rollout(**{**vars(rollout), "plans": plans})
    with pytest.raises(ValueError, match="gave no decision"):
        build_trace(silent, 0)
