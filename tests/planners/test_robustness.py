"""Every teacher, given what it should not be given: a plan and a decision that say what happened, no exception."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from builders import car, ego_state, scenario, straight_map, tracked
from hypothesis import given, settings
from hypothesis import strategies as st

from nsdrive.cli import TEACHERS, choose_planner, planner_factory
from nsdrive.scenarios.synthetic import SyntheticConfig, build
from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, ObjectFrame, Observation, Scenario
from nsdrive.world.vehicle import EgoModel

WORLD = build(SyntheticConfig(families=("red_light_lead",)), 0)
ROAD = straight_map(300.0, n_lanes=2)
TICKS = 12

every_planner = pytest.mark.parametrize("name", TEACHERS)


def make(name: str):
    return planner_factory(choose_planner(name))()


def check(plan, observation, *expected: str) -> None:
    """A plan that can be driven, and a decision that says what was wrong and is no accident."""
    trajectory, decision = plan.trajectory, plan.decision
    for part in (trajectory.times_s, trajectory.poses_global, trajectory.speeds_mps, trajectory.accels_mps2):
        assert np.isfinite(part).all()
    assert len(trajectory.times_s) == len(trajectory.poses_global) == len(trajectory.speeds_mps) > 10
    assert (np.diff(trajectory.times_s) > 0.0).all()
    assert (trajectory.speeds_mps >= 0.0).all()
    assert np.isfinite(decision.command_mps2)
    assert 0 <= decision.binding < len(decision.constraints)
    said = "; ".join(decision.notes)
    assert "Error: " not in said, "an exception that nobody foresaw"
    for words in expected:
        assert words in said
    if not expected:
        assert said == ""


def observed(world: Scenario, **changes) -> Observation:
    tick = HISTORY_TICKS
    fields = {
        "tick": tick, "time_s": tick * INTERVAL_S, "ego": world.ego_log[tick], "ego_history": world.ego_log[: tick + 1],
        "objects": world.frames[tick], "lights": world.lights[tick],
    }  # fmt: skip
    return Observation(**(fields | changes))


def drive(name: str, world: Scenario, *expected: str, ticks: int = TICKS):
    """A few ticks in closed loop; every plan is checked."""
    rollout = simulate(world, make(name), duration_s=ticks * INTERVAL_S)
    for plan in rollout.plans:
        check(plan, None, *expected)
    return rollout


# ---- routes and maps ------------------------------------------------------------------------------------------------


@every_planner
def test_input_as_it_should_be_makes_no_notes(name):
    drive(name, WORLD)


@every_planner
def test_no_route(name):
    drive(name, replace(WORLD, route_roadblock_ids=()), "there is no route")


@every_planner
def test_a_route_that_the_map_does_not_have(name):
    drive(
        name, replace(WORLD, route_roadblock_ids=("nowhere", "neverland")), "nowhere, neverland, which the map does not"
    )


@every_planner
def test_a_route_that_ends(name):
    world = scenario(straight_map(60.0), ego_x_m=25.0, speed_mps=8.0, duration_s=8.0)
    rollout = drive(name, world, ticks=80)
    assert rollout.states[-1].x_m < 60.0 or rollout.states[-1].speed_mps < 1.0
    assert any(c.rule == "path_end" for plan in rollout.plans for c in plan.decision.constraints)


@every_planner
def test_the_ego_beyond_the_end_of_its_route(name):
    world = scenario(straight_map(40.0), ego_x_m=38.0, speed_mps=4.0)
    for plan in simulate(world, make(name), duration_s=2.0).plans:
        check(plan, None, *plan.decision.notes)


@every_planner
@pytest.mark.parametrize("aside_m", [12.0, 60.0, 900.0])
def test_the_ego_off_the_road(name, aside_m):
    rollout = drive(name, scenario(ROAD, ego_y_m=-aside_m, speed_mps=5.0), "the ego is off every lane")
    assert 0.0 < rollout.states[-1].speed_mps < 10.0, "the way back is driven, not jumped"


@every_planner
def test_the_ego_across_and_against_its_lane(name):
    for heading in (np.pi / 2, np.pi, -2.0):
        world = scenario(ROAD, speed_mps=5.0)
        log = tuple(replace(state, heading_rad=heading) for state in world.ego_log)
        for plan in simulate(replace(world, ego_log=log), make(name), duration_s=1.0).plans:
            check(plan, None, *plan.decision.notes)


def changed(lane_map: LaneMap, change: Callable[[Lane], Lane | None]) -> LaneMap:
    lanes = {key: new for key, lane in lane_map.lanes.items() if (new := change(lane)) is not None}
    return replace(lane_map, lanes=lanes)


@every_planner
def test_a_lane_graph_with_a_hole(name):
    lane_map = changed(straight_map(300.0, n_pieces=3), lambda lane: None if lane.roadblock_id == "block-1" else lane)
    world = scenario(lane_map, ego_x_m=70.0, route=("block-0", "block-1", "block-2"))
    said = ("block-1, which the map does not have", "no lane leads from roadblock block-0 of the route to block-2")
    drive(name, world, *said)


@every_planner
def test_lanes_that_lead_nowhere_and_know_nobody(name):
    lane_map = changed(straight_map(300.0, n_pieces=3), lambda lane: replace(lane, outgoing=(), incoming=("ghost",)))
    drive(name, scenario(lane_map, ego_x_m=70.0), "no lane leads from roadblock block-0 of the route to block-1")


@every_planner
@pytest.mark.parametrize("points", [1, 2])
def test_a_lane_without_length(name, points):
    def shrink(lane: Lane) -> Lane:
        at = np.repeat(lane.centerline[:1], points, axis=0)
        return (
            lane
            if lane.roadblock_id != "block-1"
            else replace(lane, centerline=at, left_boundary=at, right_boundary=at)
        )

    world = scenario(changed(straight_map(300.0, n_pieces=3), shrink), ego_x_m=70.0)
    drive(
        name, world, "without finite lines of some length, left out: lane 1-0", "block-1, which the map does not have"
    )


@every_planner
@pytest.mark.parametrize("which", ["0-0", "1-0"])
@pytest.mark.parametrize("line", ["centerline", "left_boundary"])
def test_a_lane_with_a_line_that_is_not_finite(name, which, line):
    def spoil(lane: Lane) -> Lane:
        points = getattr(lane, line).copy()
        points[3] = np.nan
        return lane if lane.lane_id != which else replace(lane, **{line: points})

    world = scenario(changed(straight_map(300.0, n_pieces=3), spoil), ego_x_m=70.0)
    drive(name, world, f"without finite lines of some length, left out: lane {which}")


@every_planner
def test_a_map_without_lanes(name):
    rollout = drive(name, scenario(LaneMap(name="nothing", lanes={}), speed_mps=6.0), "the map has no lanes", ticks=60)
    assert rollout.states[-1].speed_mps < 0.5


# ---- objects and lights ---------------------------------------------------------------------------------------------


@every_planner
@pytest.mark.parametrize("count", [0, 500])
def test_nobody_and_five_hundred(name, count):
    rng = np.random.default_rng(7)
    kinds = ("vehicle", "bicycle", "pedestrian", "traffic_cone", "barrier")
    crowd = [
        tracked(
            f"object-{k}",
            20.0 + rng.uniform(-90.0, 90.0),
            rng.uniform(-90.0, 90.0),
            kind=kinds[k % 5], heading_rad=rng.uniform(-3.0, 3.0), speed_mps=rng.uniform(0.0, 12.0),
        )
        for k in range(count)
    ]  # fmt: skip
    rollout = simulate(scenario(ROAD, crowd), make(name), duration_s=0.5)
    for plan in rollout.plans:
        check(plan, None, *plan.decision.notes)


@every_planner
def test_somebody_in_the_same_place_at_the_start(name):
    world = scenario(ROAD, [car("inside", 21.0), car("ahead", 60.0)], speed_mps=5.0)
    plan = simulate(world, make(name), duration_s=0.0).plans[0]
    check(plan, None, "the ego overlaps inside")


@every_planner
@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_box_that_is_not_finite_is_left_out_and_named(name, column, value):
    frame = ObjectFrame.of([car("good", 60.0), car("bad", 40.0)])
    frame.boxes[1, column] = value
    planner, world = make(name), scenario(ROAD)
    planner.initialize(world.mission, world.ego_log[HISTORY_TICKS])
    plan = planner.plan(observed(world, objects=frame))
    check(plan, None, "without a usable box, left out: bad")
    assert {c.about for c in plan.decision.constraints if c.rule == "lead"} <= {"good"}


@every_planner
@pytest.mark.parametrize("size", [0.0, -4.0, 1e9])
def test_a_box_of_a_size_that_nothing_has_is_left_out(name, size):
    frame = ObjectFrame.of([car("good", 60.0), tracked("bad", 40.0, length_m=size)])
    planner, world = make(name), scenario(ROAD)
    planner.initialize(world.mission, world.ego_log[HISTORY_TICKS])
    check(planner.plan(observed(world, objects=frame)), None, "without a usable box, left out: bad")


@every_planner
def test_a_speed_that_is_not_finite_is_taken_for_none(name):
    frame = ObjectFrame.of([car("bad", 45.0, speed_mps=9.0)])
    frame.velocities_mps[0] = np.nan
    frame.accels_mps2[0] = np.nan
    planner, world = make(name), scenario(ROAD)
    planner.initialize(world.mission, world.ego_log[HISTORY_TICKS])
    plan = planner.plan(observed(world, objects=frame))
    check(plan, None, "without a finite velocity, taken to stand: bad")
    standing = ObjectFrame.of([car("bad", 45.0)])
    again = make(name)
    again.initialize(world.mission, world.ego_log[HISTORY_TICKS])
    same = again.plan(observed(world, objects=standing))
    assert np.array_equal(plan.trajectory.poses_global, same.trajectory.poses_global)


@every_planner
def test_nothing_but_broken_objects(name):
    frame = ObjectFrame.of([car(f"bad-{k}", 40.0) for k in range(5)])
    frame.boxes[:] = np.nan
    planner, world = make(name), scenario(ROAD)
    planner.initialize(world.mission, world.ego_log[HISTORY_TICKS])
    check(planner.plan(observed(world, objects=frame)), None, "left out: bad-0, bad-1, bad-2 and 2 more")


@every_planner
def test_lights_of_unknown_connectors_and_in_unknown_states(name):
    lights = {"ghost": "red", next(iter(ROAD.lanes)): "purple", "": "green"}
    drive(name, scenario(ROAD, lights=lights))


# ---- the ego --------------------------------------------------------------------------------------------------------


@every_planner
@pytest.mark.parametrize("field", ["x_m", "heading_rad", "speed_mps", "time_s", "accel_mps2", "steering_rad"])
def test_an_ego_that_is_not_finite_for_one_tick(name, field):
    planner, world = make(name), scenario(ROAD, [car("lead", 60.0, speed_mps=4.0)])
    ego = world.ego_log[HISTORY_TICKS]
    planner.initialize(world.mission, ego)
    check(planner.plan(observed(world)), None)
    broken = replace(ego, **{field: np.nan})
    plan = planner.plan(observed(world, ego=broken, ego_history=(*world.ego_log[:HISTORY_TICKS], broken)))
    check(plan, None, "the ego's")
    check(planner.plan(observed(world)), None)


@every_planner
def test_an_ego_that_was_never_anywhere(name):
    planner, world = make(name), scenario(ROAD)
    nowhere = replace(world.ego_log[HISTORY_TICKS], x_m=np.nan, speed_mps=np.nan)
    planner.initialize(world.mission, nowhere)
    plan = planner.plan(observed(world, ego=nowhere, ego_history=(nowhere,)))
    check(plan, None, "taken to stand at the origin")
    check(planner.plan(observed(world)), None)


@every_planner
@pytest.mark.parametrize("speed_mps", [-3.0, -0.001, 0.0, 80.0])
def test_an_ego_at_an_odd_speed(name, speed_mps):
    world = scenario(straight_map(2000.0), speed_mps=speed_mps, ego_x_m=400.0)
    for plan in simulate(world, make(name), duration_s=1.0).plans:
        check(plan, None, *plan.decision.notes)


@every_planner
def test_a_plan_before_initialize_is_a_mistake_of_the_caller(name):
    with pytest.raises(ValueError, match="before initialize"):
        make(name).plan(observed(WORLD))


# ---- whatever else --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoiled:
    """Which numbers of an observation are replaced by what."""

    cells: tuple[tuple[int, int, float], ...]
    velocities: tuple[tuple[int, float], ...]
    ego: tuple[tuple[str, float], ...]


bad = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-9, 1e9, -1e9])
spoils = st.builds(
    Spoiled,
    cells=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), bad), max_size=4).map(tuple),
    velocities=st.lists(st.tuples(st.integers(0, 5), bad), max_size=2).map(tuple),
    ego=st.lists(
        st.tuples(st.sampled_from(["x_m", "y_m", "heading_rad", "speed_mps", "accel_mps2", "steering_rad"]), bad),
        max_size=2,
    ).map(tuple),
)


@every_planner
@given(spoiled=spoils)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_whatever_numbers_are_spoiled_there_is_a_plan(name, spoiled):
    objects = [car("lead", 50.0, speed_mps=5.0), car("beside", 30.0, 3.5), car("behind", 0.0, speed_mps=8.0)]
    objects += [
        tracked("walker", 45.0, -4.0, kind="pedestrian", length_m=0.6, width_m=0.6, heading_rad=1.5, speed_mps=1.0)
    ]
    objects += [tracked("cone", 70.0, kind="traffic_cone", length_m=0.4, width_m=0.4), car("far", 140.0)]
    frame = ObjectFrame.of(objects)
    for row, column, value in spoiled.cells:
        frame.boxes[row, column] = value
    for row, value in spoiled.velocities:
        frame.velocities_mps[row, 0] = value
    world = scenario(ROAD)
    planner = make(name)
    planner.initialize(world.mission, world.ego_log[HISTORY_TICKS])
    ego = replace(world.ego_log[HISTORY_TICKS], **dict(spoiled.ego))
    plan = planner.plan(observed(world, objects=frame, ego=ego, ego_history=(*world.ego_log[:HISTORY_TICKS], ego)))
    check(plan, None, *plan.decision.notes)
    if max(abs(ego.x_m), abs(ego.y_m), abs(ego.speed_mps), abs(ego.steering_rad)) < 1e3:
        EgoModel().advance(ego_state(time_s=plan.trajectory.times_s[0]), plan.trajectory)
