from dataclasses import replace

import numpy as np
import pytest
from builders import LANE_WIDTH_M, car, curved_map, frames_of, scenario, straight_map, tracked

from nsdrive.world.geometry import Path, boxes_overlap
from nsdrive.world.route import centerline, find_route, nearest_lane
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, EgoState, Mission, Observation, Plan, Rollout, Scenario, Trajectory
from nsdrive.world.vehicle import PACIFICA, ego_box


class Cruise:
    """Follows its lane at a constant speed, or brakes to a stop at 3 m/s^2 if that speed is 0."""

    name = "cruise"

    def __init__(self, speed_mps: float = 8.0) -> None:
        self.speed_mps = speed_mps
        self.seen: list[Observation] = []

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        start = nearest_lane(mission.lane_map, ego.pose)
        lanes = find_route(mission.lane_map, start, mission.goal_m, mission.route_roadblock_ids)
        self.path: Path = centerline(mission.lane_map, lanes)

    def plan(self, observation: Observation) -> Plan:
        self.seen.append(observation)
        ego, after = observation.ego, np.arange(51) * 0.1
        speeds = np.full(51, self.speed_mps) if self.speed_mps else np.maximum(0.0, ego.speed_mps - 3.0 * after)
        travelled = np.concatenate([[0.0], np.cumsum(speeds[:-1] * 0.1)])
        poses = self.path.pose_at(self.path.project(ego.x_m, ego.y_m)[0] + travelled)
        trajectory = Trajectory(
            times_s=observation.time_s + after, poses_global=poses, speeds_mps=speeds, accels_mps2=np.zeros(51)
        )
        return Plan(trajectory=trajectory, decision=None)


def track(rollout: Rollout, track_id: str) -> np.ndarray:
    """(T, 4): x, y, speed, acceleration of a track while it is there."""
    rows = []
    for frame in rollout.frames:
        if track_id in frame.ids:
            row = frame.ids.index(track_id)
            rows.append([*frame.boxes[row, :2], frame.speeds_mps[row], frame.accels_mps2[row]])
    return np.array(rows)


def collisions(rollout: Rollout) -> int:
    boxes = ego_box(np.array([state.pose for state in rollout.states]))
    return sum(int(boxes_overlap(box, frame.boxes).any()) for box, frame in zip(boxes, rollout.frames, strict=True))


def test_a_rollout_has_a_plan_and_a_frame_for_every_state_and_replays_the_others_exactly():
    world = scenario(
        straight_map(), [car("lead", 60.0, speed_mps=8.0), tracked("cone", 90.0, 3.0, kind="traffic_cone")]
    )
    planner = Cruise()
    rollout = simulate(world, planner, duration_s=5.0)
    assert len(rollout.states) == len(rollout.plans) == len(rollout.frames) == len(rollout.lights) == 51
    assert rollout.start_tick == HISTORY_TICKS
    assert rollout.history == world.ego_log[:HISTORY_TICKS]
    assert all(a is b for a, b in zip(rollout.frames, world.frames[HISTORY_TICKS:], strict=False))
    assert rollout.states[-1].time_s == pytest.approx(7.0)
    assert rollout.states[-1].x_m == pytest.approx(60.0, abs=0.1)
    last = planner.seen[-1]
    assert (last.tick, len(last.ego_history)) == (70, 71)
    assert last.ego_history[-1] is last.ego


def test_without_a_duration_it_drives_to_the_end_of_the_scenario():
    assert len(simulate(scenario(straight_map(), duration_s=4.0), Cruise()).states) == 41


def test_a_curve_is_driven_within_the_lane():
    road = curved_map(30.0, lead_in_m=60.0)
    rollout = simulate(scenario(road, duration_s=10.0, ego_x_m=20.0, speed_mps=7.0), Cruise(7.0))
    path = centerline(road, ("0-0", "1-0"))
    offsets = path.project_points(np.array([s.pose[:2] for s in rollout.states]))[:, 1]
    assert np.abs(offsets).max() < 0.5


@pytest.mark.parametrize("start", [-1, HISTORY_TICKS - 1, HISTORY_TICKS + 1, 500])
def test_a_start_outside_the_scenario_names_the_range_that_works(start):
    with pytest.raises(ValueError, match=f"from {HISTORY_TICKS} .* to {HISTORY_TICKS} "):
        simulate(scenario(straight_map()), Cruise(), start_tick=start)


def test_more_time_than_there_is_and_unknown_agents_are_refused():
    world = scenario(straight_map(), duration_s=4.0)
    with pytest.raises(ValueError, match=r"it lasts 4\.0 s from there"):
        simulate(world, Cruise(), duration_s=5.0)
    with pytest.raises(ValueError, match="Known: replay"):
        simulate(world, Cruise(), agents="clever")


def test_a_planner_that_turns_nan_is_stopped_with_scenario_and_tick():
    class Broken(Cruise):
        def plan(self, observation: Observation) -> Plan:
            plan = super().plan(observation)
            if observation.tick == 27:
                plan.trajectory.poses_global[3, 0] = np.nan
            return plan

    with pytest.raises(ValueError, match=r"test-scenario, tick 27.*'cruise'"):
        simulate(scenario(straight_map()), Broken())


def test_a_plan_from_the_past_is_refused_with_the_planners_name():
    class Late(Cruise):
        def plan(self, observation: Observation) -> Plan:
            plan = super().plan(observation)
            return replace(plan, trajectory=replace(plan.trajectory, times_s=plan.trajectory.times_s - 30.0))

    with pytest.raises(ValueError, match=r"planner 'cruise'.*start it at the current time"):
        simulate(scenario(straight_map()), Late())


def busy_scenario(**keywords) -> Scenario:
    objects = [
        car("ahead", 50.0, speed_mps=8.0),
        car("behind", 0.0, speed_mps=8.0),
        car("beside", 22.0, LANE_WIDTH_M, speed_mps=9.0),
        car("parked", 80.0, -2.6),
        tracked("bike", 30.0, -1.4, kind="bicycle", speed_mps=4.0, length_m=1.8, width_m=0.6),
        tracked("walker", 70.0, 6.0, kind="pedestrian", heading_rad=-1.5, speed_mps=0.5, length_m=0.6, width_m=0.6),
    ]
    return scenario(straight_map(300.0, n_lanes=2), objects, duration_s=10.0, **keywords)


@pytest.mark.parametrize("agents", ["replay", "reactive"])
def test_two_rollouts_are_equal_bit_for_bit(agents):
    first, second = (simulate(busy_scenario(), Cruise(7.0), agents=agents) for _ in range(2))
    assert first.states == second.states
    for a, b in zip(first.frames, second.frames, strict=True):
        assert a.ids == b.ids
        assert a.boxes.tobytes() == b.boxes.tobytes()
        assert a.accels_mps2.tobytes() == b.accels_mps2.tobytes()


def test_a_reactive_car_stops_behind_a_stopped_ego_and_shows_it_brakes():
    world = scenario(straight_map(300.0), [car("behind", -5.0, speed_mps=8.0)], ego_x_m=30.0, duration_s=12.0)
    replayed, rollout = simulate(world, Cruise(0.0)), simulate(world, Cruise(0.0), agents="reactive")
    assert collisions(replayed) > 0
    assert collisions(rollout) == 0
    behind = track(rollout, "behind")
    gap = (rollout.states[-1].x_m - PACIFICA.rear_m) - (behind[-1, 0] + 4.7 / 2)
    assert behind[-1, 2] < 0.3
    assert 0.5 < gap < 3.0
    assert behind[:, 3].min() < -1.0


def test_reactive_cars_keep_off_each_other_when_the_first_is_held_up():
    cars = [car(f"car-{i}", 20.0 - 14.0 * i, LANE_WIDTH_M, speed_mps=8.0) for i in range(3)]
    barrier = tracked("barrier", 90.0, LANE_WIDTH_M, kind="barrier", length_m=0.5, width_m=2.0)
    rollout = simulate(scenario(straight_map(300.0, 2), [*cars, barrier], duration_s=15.0), Cruise(), agents="reactive")
    for frame in rollout.frames:
        assert boxes_overlap(frame.boxes, frame.boxes).sum() == len(frame)
    last = [track(rollout, f"car-{i}")[-1] for i in range(3)]
    assert all(row[2] < 0.5 for row in last)
    assert last[0][0] < 90.0 - 0.25 - 4.7 / 2


@pytest.mark.parametrize(("light", "stops"), [("red", True), ("green", False), ("unknown", False)])
def test_a_reactive_car_stops_at_red_only(light, stops):
    road = straight_map(200.0, n_lanes=2, signal=True)
    world = scenario(road, [car("other", 50.0, LANE_WIDTH_M, speed_mps=8.0)], lights={"1-1": light}, duration_s=10.0)
    other = track(simulate(world, Cruise(), agents="reactive"), "other")
    assert (other[-1, 0] + 4.7 / 2 < 100.0) == stops
    assert (other[-1, 2] < 0.5) == stops


def test_what_does_not_drive_on_a_lane_is_replayed_in_reactive_mode_too():
    world = busy_scenario()
    rollout = simulate(world, Cruise(), agents="reactive")
    for track_id in ("parked", "bike", "walker"):
        expected = [frame.boxes[frame.ids.index(track_id)] for frame in world.frames[HISTORY_TICKS:]]
        actual = [frame.boxes[frame.ids.index(track_id)] for frame in rollout.frames]
        assert np.array_equal(expected, actual)
    assert rollout.frames[0] is world.frames[HISTORY_TICKS]


def test_a_reactive_car_starts_where_it_was_and_turns_where_it_turned():
    road = curved_map(30.0, lead_in_m=60.0)
    path = centerline(road, ("0-0", "1-0"))
    world = scenario(road, duration_s=10.0, ego_x_m=10.0, speed_mps=5.0)
    frames = []
    for tick in range(world.n_ticks):
        x, y, heading = path.pose_at(30.0 + 0.6 * tick)
        frames.append(frames_of([car("other", x, y, heading_rad=heading, speed_mps=6.0)], 1)[0])
    rollout = simulate(replace(world, frames=tuple(frames)), Cruise(5.0), agents="reactive")
    other = track(rollout, "other")
    assert np.abs(path.project_points(other[:, :2])[:, 1]).max() < 0.3
    assert np.hypot(*np.diff(other[:, :2], axis=0).T).max() < 1.3
    assert other[-1, 1] > 20.0


def test_a_car_that_enters_later_joins_the_reactive_traffic():
    world = scenario(straight_map(300.0, 2), duration_s=10.0)
    late = car("late", 20.0, LANE_WIDTH_M, speed_mps=8.0)
    frames = [f if tick >= 50 else f.take([]) for tick, f in enumerate(frames_of([late], world.n_ticks))]
    rollout = simulate(replace(world, frames=tuple(frames)), Cruise(), agents="reactive")
    assert [len(frame) for frame in rollout.frames] == [0] * 30 + [1] * 71
    assert track(rollout, "late")[0, 0] == pytest.approx(20.0 + 8.0 * 5.0, abs=1e-6)
