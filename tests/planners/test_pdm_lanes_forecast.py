"""What pdm_lanes expects of the others, and how gently it answers: bends, tight turns, who is about to come in."""

import numpy as np
import pytest
from builders import curved_map, ego_state, straight_map, tracked

from nsdrive.scenarios.synthetic import SyntheticConfig, build
from nsdrive.world.decision import Term
from nsdrive.world.measure import clearance_m
from nsdrive.world.simulate import simulate
from nsdrive.world.types import Mission, ObjectFrame
from nsdrive.world.vehicle import PACIFICA, ego_box
from planners.lanes.candidates import Course, Start, lay
from planners.lanes.config import PdmLanesConfig
from planners.lanes.following import LaneFollowing
from planners.lanes.frenet import entries, place
from planners.lanes.outlook import CLEAR_M, crossed_s
from planners.lanes.rollout import GENTLE_JERK_MPS3, Stop, drive
from planners.lanes.topology import Chains
from planners.lanes.weighing import near_in_bends
from planners.pdm.score import NAMES
from planners.pdm_lanes import PdmLanesPlanner

C = PdmLanesConfig()
SAMPLES, EVERY_S = 21, 0.2
BEND = curved_map(40.0)


def expected(lane_map, *objects):
    return LaneFollowing(lane_map=lane_map).bends(ObjectFrame.of(list(objects)), samples=SAMPLES, interval_s=EVERY_S)


def path_in(lane_map, speed_mps):
    chains = Chains(Mission(lane_map=lane_map, route_roadblock_ids=("block-0", "block-1")), ("block-0", "block-1"), C)
    chain = chains.through("0-0")
    start = Start.of(chain, Course.of(ego_state(x_m=5.0, speed_mps=speed_mps), None))
    return lay(chain, start, [(15.0, 0.0)], 150.0, kind="keep", offset_m=0.0)


def driven(path, speed_mps, *, stops=(), met=None, accel_mps2=0.0):
    met = np.zeros((4, 1, 0)) if met is None else met
    return drive(path, speed_mps, (1.0,), stops, met, C, steps=80, sample_s=EVERY_S, accel_mps2=accel_mps2)


def met_by(path, *objects):
    frame = ObjectFrame.of(list(objects))
    return entries(
        path.points,
        path.arc_m,
        frame.boxes,
        frame.velocities_mps,
        frame.accels_mps2,
        C.half_width_m,
        samples=SAMPLES,
        interval_s=EVERY_S,
    )


# ---- along their lanes ------------------------------------------------------------------------------------------------


def test_a_car_before_a_bend_is_expected_on_its_lane_all_the_way():
    bends = expected(BEND, tracked("car", 40.0, 0.4, speed_mps=10.0))
    assert bends.ids == ("car",)
    path = path_in(BEND, 10.0).chain.path
    at = path.project_points(bends.poses[:, 0, :2])
    assert at[:, 1] == pytest.approx(np.full(SAMPLES, 0.4), abs=0.03)
    assert np.diff(at[:, 0]) == pytest.approx(np.full(SAMPLES - 1, 2.0), abs=0.05)
    assert bends.poses[-1, 0, 2] > 0.5
    assert np.hypot(*(bends.poses[-1, 0, :2] - [80.0, 0.4])) > 5.0  # where constant velocity would have it


def test_who_goes_straight_stands_or_crosses_is_expected_as_before():
    straight = expected(straight_map(200.0), tracked("car", 40.0, 0.3, speed_mps=10.0))
    assert straight.ids == ()
    others = (
        tracked("parked", 45.0, speed_mps=0.0),
        tracked("crossing", 60.0, -8.0, heading_rad=np.pi / 2, speed_mps=8.0),
        tracked("walker", 45.0, kind="pedestrian", speed_mps=1.5),
    )
    bends = expected(BEND, *others)
    assert bends.ids == ()
    assert bends.rows(("parked", "crossing")).tolist() == [-1, -1]


def test_a_drift_to_the_side_goes_on_in_the_bend():
    car = tracked("car", 40.0, speed_mps=10.0, heading_rad=0.1)
    at = path_in(BEND, 10.0).chain.path.project_points(expected(BEND, car).poses[:, 0, :2])
    assert np.diff(at[:, 1]) == pytest.approx(np.full(SAMPLES - 1, 10.0 * np.sin(0.1) * EVERY_S), abs=0.03)


def test_beyond_the_end_of_the_map_a_car_goes_straight_on():
    lane_map = curved_map(40.0, angle_rad=0.5, lead_in_m=20.0)
    poses = expected(lane_map, tracked("car", 15.0, speed_mps=20.0)).poses[:, 0]
    assert np.isfinite(poses).all()
    assert np.hypot(*np.diff(poses[:, :2], axis=0).T) == pytest.approx(np.full(SAMPLES - 1, 4.0), abs=0.1)


def test_a_time_to_collision_in_a_bend_counts_only_where_it_is_near():
    def terms(seconds, about):
        rest = [Term(name=name, value=1.0) for name in NAMES]
        rest[NAMES.index("time_to_collision")] = Term(
            name="time_to_collision", value=0.0, measured=seconds, about=about
        )
        return tuple(rest)

    scored = (terms(3.0, "oncoming"), terms(1.0, "oncoming"), terms(3.0, "lead"))
    mended = near_in_bends(scored, {"oncoming"}, 1.5)
    column = NAMES.index("time_to_collision")
    assert [t[column].value for t in mended] == [1.0, 0.0, 0.0]
    assert mended[1:] == scored[1:]


@pytest.mark.parametrize(("family", "index"), [("curve", 4), ("right_turn", 2)])
def test_neither_oncoming_traffic_in_a_bend_nor_a_tight_turn_stops_the_ego(family, index):
    scenario = build(SyntheticConfig(seed=11, families=(family,), n_scenarios=5), index)
    rollout = simulate(scenario, PdmLanesPlanner(), start_tick=20)
    speeds = np.array([state.speed_mps for state in rollout.states])
    lowest = {"curve": 7.0, "right_turn": 0.0}[family]
    assert speeds.min() > lowest
    assert speeds[-40:].mean() > 3.0


# ---- gently -----------------------------------------------------------------------------------------------------------


def test_a_line_far_ahead_is_braked_for_gently_and_a_near_one_at_once():
    path = path_in(straight_map(200.0), 10.0)
    far = driven(path, 10.0, stops=(Stop(progress_m=75.0),))
    near = driven(path, 10.0, stops=(Stop(progress_m=32.0),))
    assert np.diff(far.accels_mps2[0, :10]).min() > -1.01 * GENTLE_JERK_MPS3 * 0.1 - 1e-9
    assert far.accels_mps2[0, 0] > -0.2
    assert near.accels_mps2[0, 0] < -1.5


def test_braking_begins_with_the_acceleration_that_there_is():
    path = path_in(straight_map(200.0), 10.0)
    speeding_up = driven(path, 10.0, stops=(Stop(progress_m=60.0),), accel_mps2=1.0)
    assert 0.7 < speeding_up.accels_mps2[0, 0] <= 1.0


def test_who_is_about_to_come_in_is_followed_before_he_is_in_and_calmly():
    path = path_in(straight_map(200.0), 12.0)
    coming = met_by(path, tracked("car", 32.0, 4.2, heading_rad=-0.25, speed_mps=7.0))
    staying = met_by(path, tracked("car", 32.0, 4.2, speed_mps=7.0))
    assert np.isinf(coming[0, 0, 0])
    assert np.isfinite(coming[0]).any()
    assert driven(path, 12.0, met=staying).accels_mps2[0, 0] > 0.0
    first = driven(path, 12.0, met=coming).accels_mps2[0, 0]
    assert -0.6 * C.decel_max_mps2 - 1e-9 <= first < -0.5


# ---- arriving when the way is free --------------------------------------------------------------------------------------


def test_who_will_be_gone_is_not_stopped_for_but_arrived_after():
    path = path_in(straight_map(200.0), 8.0)
    for_good = driven(path, 8.0, stops=(Stop(progress_m=45.0),))
    gone_in_time = driven(path, 8.0, stops=(Stop(progress_m=45.0, until_s=5.0),))
    assert gone_in_time.speeds_mps[0].min() > 5.0 > for_good.speeds_mps[0].min()
    assert -0.5 < gone_in_time.accels_mps2[0, 0] < -0.2, "it slows down a little at once, not much later"
    nose_m = gone_in_time.arc_m[0] + 5.0 + PACIFICA.front_m  # the path begins at 5 m
    assert nose_m[50] == pytest.approx(44.5, abs=1.5), "it is at the line when that is free, not before"


def test_as_long_as_somebody_is_there_a_stop_before_the_line_stays_possible():
    path = path_in(straight_map(200.0), 12.0)
    near = driven(path, 12.0, stops=(Stop(progress_m=40.0, until_s=8.0),))
    nose_m, speed = near.arc_m[0] + 5.0 + PACIFICA.front_m, near.speeds_mps[0]
    waiting = np.arange(len(nose_m)) * 0.1 < 7.0
    assert (nose_m[waiting] < 40.0).all()
    assert (0.5 * speed[waiting] ** 2 <= 1.1 * C.decel_max_mps2 * (40.0 - nose_m[waiting]) + 0.5).all()


def test_somebody_on_a_crosswalk_is_waited_for_until_he_has_left_the_egos_way():
    chain = path_in(straight_map(200.0), 8.0).chain
    walking = tracked(
        "walks", 50.0, -2.0, kind="pedestrian", heading_rad=np.pi / 2, speed_mps=1.5, length_m=0.6, width_m=0.6
    )
    standing = tracked("stands", 50.0, 0.0, kind="pedestrian", length_m=0.6, width_m=0.6)
    placed = place(chain.path, ObjectFrame.of([walking, standing]))
    width_m = 2.0 + C.half_width_m + 0.3 + CLEAR_M
    assert crossed_s("walks", placed, C) == pytest.approx(width_m / 1.5, abs=0.01)
    assert np.isinf(crossed_s("stands", placed, C))
    assert np.isinf(crossed_s("nobody", placed, C))


@pytest.mark.parametrize(
    ("index", "whom", "why"),
    [
        (24, "car-5", "it slows down for its turn and comes all the same"),
        (244, "car-26", "half way round it there was no way back behind it"),
    ],
)
def test_two_drives_that_once_ended_in_a_hit_do_not(index, whom, why):
    scenario = build(SyntheticConfig(seed=53, n_scenarios=250), index)
    rollout = simulate(scenario, PdmLanesPlanner(), start_tick=20)
    others = [frame.take(np.array([track_id == whom for track_id in frame.ids])) for frame in rollout.frames]
    egos = ego_box(np.array([state.pose for state in rollout.states]))
    count = min(len(others), len(egos))
    assert clearance_m(egos[:count], others[:count]).min() > 0.1, why
