import math

import numpy as np
import pytest
from builders import straight_map

from nsdrive.world.decision import Proposal
from nsdrive.world.lane_map import Intersection, Lane, LaneMap
from nsdrive.world.scoring import is_consistent, total
from nsdrive.world.types import EgoState, FloatArray, ObjectFrame, TrackedObject
from planners.pdm import readable_score, readable_simulate
from planners.pdm.areas import MULTIPLE_LANES, NON_DRIVABLE, ONCOMING, Areas
from planners.pdm.brake import emergency_trajectory, must_brake
from planners.pdm.config import PdmParameters
from planners.pdm.forecast import Forecast, forecast
from planners.pdm.paths import ProposalPath
from planners.pdm.readable_score import ReadableAreas
from planners.pdm.score import NAMES, Scores, comfortable, score_proposals, terms_of
from planners.pdm.simulate import simulate_proposals

ROUTE = ("0-0", "1-0")
TIMES = 0.1 * np.arange(41)


def thing(track_id: str, x: float, y: float, **more) -> TrackedObject:
    given = {
        "kind": "vehicle",
        "heading_rad": 0.0,
        "length_m": 4.7,
        "width_m": 1.9,
        "vx_mps": 0.0,
        "vy_mps": 0.0,
    } | more
    return TrackedObject(track_id=track_id, x_m=x, y_m=y, height_m=1.6, accel_mps2=0.0, indicator=0, **given)


def along_x(lane_map: LaneMap) -> ProposalPath:
    x = np.arange(0.0, 201.0)
    return ProposalPath.of(np.column_stack([x, 0.0 * x]), 0.0 * x, ["0-0"] * len(x))


def straight(ego: EgoState, *speeds_mps: float, y_m: float = 0.0) -> FloatArray:
    """(P, 41, 3): one proposal at each speed, on the line y = y_m."""
    poses = np.zeros((len(speeds_mps), 41, 3))
    poses[:, :, 0] = ego.x_m + np.outer(speeds_mps, TIMES)
    poses[:, :, 1] = y_m
    return poses


def see(objects, ego: EgoState, config: PdmParameters) -> Forecast:
    return forecast(ObjectFrame.of(list(objects)), {}, ego, {}, frozenset(), config)


def judge(
    objects=(), speeds=(8.0,), *, ego_mps=8.0, y_m=0.0, n_lanes=1, route=ROUTE, config=None
) -> tuple[Scores, Forecast]:
    """Proposals at constant speeds on lane 0 of a straight road, the ego at x = 20 m."""
    config = config or PdmParameters()
    road = straight_map(200.0, n_lanes=n_lanes)
    ego = EgoState(time_s=0.0, x_m=20.0, y_m=y_m, heading_rad=0.0, speed_mps=ego_mps)
    seen = see(objects, ego, config)
    simulated = simulate_proposals(straight(ego, *speeds, y_m=y_m), ego)
    areas = Areas.near(road, simulated.centers[0, 0], 50.0)
    return score_proposals(simulated, seen, along_x(road), areas, route, config), seen


def term(scores: Scores, name: str, p: int = 0) -> tuple[float, float, int]:
    k = NAMES.index(name)
    return float(scores.values[p, k]), float(scores.measured[p, k]), int(scores.about[p, k])


def test_on_a_free_road_every_term_is_full_and_the_fastest_proposal_wins():
    scores, _ = judge(speeds=(4.0, 8.0, 6.0))
    assert scores.best == 1
    assert scores.score[1] == pytest.approx(1.0)
    assert term(scores, "progress", 1)[1] == pytest.approx(32.0, abs=0.5)
    assert term(scores, "progress", 2)[0] == pytest.approx(scores.measured[2, 3] / scores.measured[1, 3])


def test_driving_into_a_parked_car_scores_nothing_and_names_the_car_and_the_time():
    scores, seen = judge([thing("far", 60.0, 9.0), thing("parked", 45.0, 0.0)])
    value, at, who = term(scores, "no_at_fault_collision")
    assert value == 0.0
    assert scores.score[0] == 0.0
    assert seen.ids[who] == "parked"
    # Bumper at 20 + 4.049 m, the car's rear at 42.65 m; boxes of the forecast are exact for a standing one.
    assert at == pytest.approx((42.65 - 24.049) / 8.0, abs=0.15)
    assert scores.collision_s[0] == at
    assert scores.collision_about[0] == who


def test_a_cone_costs_half_and_a_pedestrian_everything():
    cone, _ = judge([thing("cone", 35.0, 0.0, kind="traffic_cone", length_m=0.4, width_m=0.4)])
    walker, _ = judge([thing("walker", 35.0, 0.0, kind="pedestrian", length_m=0.6, width_m=0.6)])
    assert term(cone, "no_at_fault_collision")[0] == 0.5
    assert term(walker, "no_at_fault_collision")[0] == 0.0


def test_the_term_blames_who_costs_most_and_the_brake_looks_at_who_comes_first():
    cone = thing("cone", 32.0, 0.0, kind="traffic_cone", length_m=0.4, width_m=0.4)
    scores, seen = judge([cone, thing("car", 46.0, 0.0)])
    value, at, who = term(scores, "no_at_fault_collision")
    assert (value, seen.ids[who]) == (0.0, "car")
    assert seen.ids[scores.collision_about[0]] == "cone"
    assert scores.collision_s[0] < at


def test_being_hit_from_behind_is_not_the_egos_fault():
    scores, _ = judge([thing("tailgater", 10.0, 0.0, vx_mps=15.0)], speeds=(4.0,), ego_mps=4.0)
    assert scores.values[0].tolist() == [1.0] * 6


def test_a_standing_ego_is_never_at_fault():
    scores, _ = judge([thing("oncoming", 40.0, 0.0, heading_rad=math.pi, vx_mps=-8.0)], speeds=(0.0,), ego_mps=0.0)
    assert term(scores, "no_at_fault_collision")[0] == 1.0
    assert term(scores, "time_to_collision")[0] == 1.0


@pytest.mark.parametrize(("n_lanes", "y_m", "fault"), [(3, 0.0, 1.0), (3, 1.75, 0.0)])
def test_a_contact_at_the_side_is_the_egos_fault_only_between_lanes(n_lanes, y_m, fault):
    drifter = thing(
        "drifter", 20.0, y_m + 3.4, vx_mps=8.0 * math.cos(-0.15), vy_mps=8.0 * math.sin(-0.15), heading_rad=-0.15
    )
    scores, _ = judge([drifter], y_m=y_m, n_lanes=n_lanes)
    assert term(scores, "no_at_fault_collision")[0] == fault


def test_who_overlaps_the_ego_already_is_ignored():
    scores, _ = judge([thing("inside", 23.0, 0.0)])
    assert scores.values[0, 0] == 1.0
    assert scores.values[0, 4] == 1.0


def test_a_car_ahead_within_nine_tenths_of_a_second_is_a_time_to_collision_infraction():
    # 4 m/s slower; the gap of 18.6 m closes to what 0.9 s of driving on can bridge (3.6 m) after some 3.7 s
    scores, seen = judge([thing("slow", 45.0, 0.0, vx_mps=4.0)])
    value, at, who = term(scores, "time_to_collision")
    assert (value, seen.ids[who]) == (0.0, "slow")
    assert at == pytest.approx((42.65 - 24.049 - 0.9 * 4.0) / 4.0, abs=0.25)
    assert term(scores, "no_at_fault_collision")[0] == 1.0


def test_leaving_the_road_is_told_with_its_time():
    scores, _ = judge(y_m=0.9)
    assert term(scores, "drivable_area")[:2] == (0.0, 0.0)
    assert scores.score[0] == 0.0


def test_driving_off_the_route_costs_by_its_length():
    far, _ = judge(n_lanes=2, y_m=3.5)
    near, _ = judge(n_lanes=2, y_m=3.5, speeds=(1.0,), ego_mps=1.0)
    short, _ = judge(n_lanes=2, y_m=3.5, speeds=(0.4,), ego_mps=0.4)
    assert term(far, "driving_direction")[0] == 0.0
    assert term(far, "driving_direction")[1] == pytest.approx(32.0, abs=0.5)
    assert term(near, "driving_direction")[0] == 0.5
    assert term(short, "driving_direction")[0] == 1.0


def test_a_hard_stop_is_uncomfortable():
    scores, _ = judge(speeds=(8.0, 0.0))
    assert scores.values[:, 5].tolist() == [1.0, 0.0]


def test_a_passenger_feels_a_fast_curve_unless_the_reference_is_asked_for():
    ego = EgoState(time_s=0.0, x_m=0.0, y_m=0.0, heading_rad=0.0, speed_mps=12.0, steering_rad=math.atan(3.089 / 25.0))
    turn = np.arange(41) * 1.2 / 25.0
    poses = np.stack([25.0 * np.sin(turn), 25.0 * (1.0 - np.cos(turn)), turn], axis=-1)[None]
    states = simulate_proposals(poses, ego, reference=False).states
    assert comfortable(states, reference=True)[0]
    assert not comfortable(states, reference=False)[0]  # 12^2 / 25 = 5.8 m/s2


def test_terms_make_the_score_bit_for_bit():
    objects = [thing("parked", 45.0, 0.0), thing("cone", 38.0, 1.2, kind="traffic_cone", length_m=0.4, width_m=0.4)]
    scores, seen = judge(objects, speeds=(0.5, 2.0, 3.0, 5.0, 8.0))
    for score, terms in zip(scores.score, terms_of(scores, seen), strict=True):
        assert total(terms) == score
        assert is_consistent(Proposal(path="keep", offset_m=0.0, speed_fraction=1.0, terms=terms, score=float(score)))
        assert all(t.about is None or t.about in seen.ids for t in terms)


def test_removing_the_blamed_car_lifts_the_term():
    objects = [thing("parked", 45.0, 0.0), thing("beside", 45.0, 4.0)]
    scores, seen = judge(objects)
    blamed = seen.ids[term(scores, "no_at_fault_collision")[2]]
    without, _ = judge([o for o in objects if o.track_id != blamed])
    assert term(without, "no_at_fault_collision")[0] == 1.0


def test_a_car_dead_ahead_is_ahead_although_rounding_makes_the_public_code_doubt_it():
    config = PdmParameters(reference=False)
    for turn in np.linspace(0.0, 3.0, 40):
        heading = float(turn)
        ego = EgoState(time_s=0.0, x_m=0.0, y_m=0.0, heading_rad=heading, speed_mps=10.0)
        poses = np.zeros((1, 41, 3))
        poses[0, :, 0], poses[0, :, 1] = 10.0 * TIMES * math.cos(heading), 10.0 * TIMES * math.sin(heading)
        poses[0, :, 2] = heading
        ahead = thing("lead", 14.0 * math.cos(heading), 14.0 * math.sin(heading), heading_rad=heading)
        simulated = simulate_proposals(poses, ego)
        road = straight_map(200.0)
        areas = Areas.near(road, simulated.centers[0, 0])
        scores = score_proposals(simulated, see([ahead], ego, config), along_x(road), areas, ROUTE, config)
        assert term(scores, "time_to_collision")[:2] == (0.0, 0.0)


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_proposal_that_is_not_finite_scores_nothing_and_harms_no_other(bad):
    ego = EgoState(time_s=0.0, x_m=20.0, y_m=0.0, heading_rad=0.0, speed_mps=8.0)
    poses = straight(ego, 4.0, 8.0, 6.0)
    poses[1, 7:9, 1] = bad
    config, road = PdmParameters(), straight_map(200.0)
    simulated = simulate_proposals(poses, ego)
    areas = Areas.near(road, simulated.centers[0, 0])
    scores = score_proposals(simulated, see([], ego, config), along_x(road), areas, ROUTE, config)
    assert simulated.finite[[0, 2]].all()
    assert scores.score[1] == 0.0
    assert np.isfinite(scores.score).all()
    assert scores.best == 2


@pytest.mark.parametrize("speed_mps", [math.nan, math.inf])
def test_an_ego_whose_speed_is_no_number_gets_scores_of_zero(speed_mps):
    scores, _ = judge([thing("car", 40.0, 0.0)], ego_mps=speed_mps, speeds=(4.0, 8.0))
    assert scores.score.tolist() == [0.0, 0.0]


def test_an_ego_far_from_any_road_gets_defined_scores():
    ego = EgoState(time_s=0.0, x_m=5e3, y_m=-5e3, heading_rad=0.3, speed_mps=3.0)
    config, road = PdmParameters(), straight_map(200.0)
    simulated = simulate_proposals(straight(ego, 3.0, y_m=-5e3), ego)
    areas = Areas.near(road, simulated.centers[0, 0])
    scores = score_proposals(simulated, see([], ego, config), along_x(road), areas, ROUTE, config)
    assert areas.lane_ids == ()
    assert scores.values[0, 1] == 0.0
    assert scores.score[0] == 0.0
    assert Areas.near(road, np.array([np.nan, 0.0])).lane_ids == ()


def test_a_map_without_lanes_or_with_broken_ones_holds_nobody():
    line = np.array([[0.0, 0.0], [1.0, 0.0]])
    right_side = np.column_stack([np.arange(50.0), np.full(50, -2.0)])
    left_side = right_side * [1.0, -1.0]
    lanes = {
        key: Lane(
            lane_id=key, roadblock_id="b", is_connector=False, centerline=line, speed_limit_mps=None,
            left_boundary=left, right_boundary=right,
        )
        for key, left, right in (
            ("short", line[:1], line[1:]), ("nan", line * np.nan, line), ("flat", line, line), ("ok", left_side, right_side)
        )
    }  # fmt: skip
    box, middle = np.array([[[[30.0, 1.0], [25.0, 1.0], [25.0, -1.0], [30.0, -1.0]]]]), np.array([[[27.5, 0.0]]])
    for lane_map in (LaneMap(name="empty", lanes={}), LaneMap(name="broken", lanes=lanes)):
        areas = Areas.near(lane_map, middle[0, 0])
        several, off, wrong = areas.ego_areas(box, middle, ("ok",))[0, 0]
        assert not several
        assert off == wrong == (lane_map.name == "empty")
        assert not areas.in_intersection(middle).any()


def test_five_hundred_objects_are_scored():
    rng = np.random.default_rng(5)
    crowd = [thing(f"c{i}", *rng.uniform(-60.0, 100.0, 2), vx_mps=float(rng.normal())) for i in range(500)]
    config = PdmParameters(max_vehicles=500, radius_m=200.0)
    scores, seen = judge(crowd, config=config)
    assert len(seen) == 500
    assert np.isfinite(scores.score).all()


# --- The fast one is the readable one --------------------------------------------------------------------------------


def turned(points, angle: float, shift: FloatArray) -> FloatArray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points, dtype=float) @ np.array([[cos, sin], [-sin, cos]]) + shift


def crossing_map(angle: float, shift: FloatArray, with_roadblocks: bool) -> LaneMap:
    """Two roads of two directions that cross, connectors over each other, an intersection, a carpark; turned and moved."""
    lanes: dict[str, Lane] = {}

    def add(lane_id: str, block: str, left, right, connector: bool = False) -> None:
        left, right = turned(left, angle, shift), turned(right, angle, shift)
        lanes[lane_id] = Lane(
            lane_id=lane_id, roadblock_id=block, is_connector=connector, centerline=0.5 * (left + right),
            left_boundary=left, right_boundary=right, speed_limit_mps=13.4,
        )  # fmt: skip

    arc = np.linspace(0.0, np.pi / 2, 12)
    for road, quarter in (("e", 0.0), ("n", np.pi / 2), ("w", np.pi), ("s", -np.pi / 2)):
        spin = np.array([[np.cos(quarter), np.sin(quarter)], [-np.sin(quarter), np.cos(quarter)]])
        for number in range(2):
            a, b = -3.5 * number, -3.5 * (number + 1)
            for part, (x0, x1) in {"in": (-90.0, -10.0), "out": (10.0, 90.0), "mid": (-10.0, 10.0)}.items():
                x = np.linspace(x0, x1, 9)
                left, right = np.column_stack([x, 0 * x + a]) @ spin, np.column_stack([x, 0 * x + b]) @ spin
                add(f"{road}{number}-{part}", f"{road}-{part}", left, right, part == "mid")
        inner, outer = 10.0 - 7.0, 10.0 - 3.5
        right_turn = [
            np.column_stack([-10.0 + r * np.sin(arc), -10.0 + r * np.cos(arc)]) @ spin for r in (outer, inner)
        ]
        add(f"{road}-right", f"{road}-turn", right_turn[0], right_turn[1], True)
    square = turned([[-10, -10], [10, -10], [10, 10], [-10, 10]], angle, shift)
    carpark = turned([[20, -20], [45, -20], [45, -7], [20, -7]], angle, shift)
    blocks = {
        f"{road}-in": np.concatenate([lanes[f"{road}0-in"].left_boundary, lanes[f"{road}1-in"].right_boundary[::-1]])
        for road in "enws"
    }
    return LaneMap(
        name="crossing",
        lanes=lanes,
        intersections={"x": Intersection(intersection_id="x", polygon=square)},
        carparks=(carpark,),
        roadblocks=blocks if with_roadblocks else {},
    )


def random_scene(rng: np.random.Generator):
    """An ego somewhere near a crossing, proposals that bend and brake, a crowd of everything."""
    shift = rng.choice([0.0, 4e6]) + rng.uniform(-100.0, 100.0, 2)
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(-3.0, 3.0)])
    road = crossing_map(angle, shift, bool(rng.integers(2)))
    place = turned(
        [[rng.uniform(-60.0, 20.0), rng.choice([-1.75, -3.5, -5.25, rng.uniform(-12.0, 8.0)])]], angle, shift
    )[0]
    heading = angle + rng.choice([0.0, 0.0, np.pi / 2, rng.normal(0.0, 0.3)])
    speed = max(0.0, rng.uniform(-3.0, 15.0))
    ego = EgoState(
        time_s=float(rng.integers(0, 50)), x_m=place[0], y_m=place[1], heading_rad=float((heading + np.pi) % (2 * np.pi) - np.pi),
        speed_mps=speed, accel_mps2=rng.normal(), steering_rad=rng.normal(0.0, 0.05),
    )  # fmt: skip
    count = 6
    poses = np.empty((count, 41, 3))
    for p in range(count):
        v = np.maximum(0.0, speed * rng.uniform(0.5, 1.2) + rng.uniform(-3.0, 2.0) * TIMES)
        bend = rng.choice([0.0, rng.normal(0.0, 0.05)])
        poses[p, :, 2] = ego.heading_rad + np.concatenate([[0.0], np.cumsum(0.1 * v[:-1] * bend)])
        steps = 0.1 * v[:-1, None] * np.stack([np.cos(poses[p, :-1, 2]), np.sin(poses[p, :-1, 2])], -1)
        poses[p, :, :2] = place + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    kinds = ("vehicle", "bicycle", "pedestrian", "traffic_cone", "generic_object")
    objects = []
    for i in range(int(rng.integers(0, 40))):
        kind = kinds[int(rng.integers(5))]
        size = (4.7, 1.9) if kind == "vehicle" else (0.7, 0.7)
        facing = ego.heading_rad + rng.choice([0.0, np.pi, rng.uniform(-np.pi, np.pi)])
        at = place + turned([rng.uniform([-20.0, -10.0], [45.0, 10.0])], ego.heading_rad, np.zeros(2))[0]
        v = rng.choice([0.0, 0.05, rng.uniform(-2.0, 12.0)])
        objects.append(
            thing(
                f"{kind}-{i}", at[0], at[1], kind=kind, heading_rad=facing, length_m=size[0], width_m=size[1],
                vx_mps=v * np.cos(facing), vy_mps=v * np.sin(facing),
            )
        )  # fmt: skip
    line = turned([[x, -1.75] for x in np.arange(-90.0, 91.0)], angle, shift)
    centerline = ProposalPath.of(line, np.full(len(line), angle), ["e0-in"] * len(line))
    route = tuple(f"e{n}-{part}" for n in range(2) for part in ("in", "mid", "out"))
    return road, ego, poses, objects, centerline, route


@pytest.mark.parametrize("seed", range(40))
def test_the_fast_scores_are_the_readable_ones(seed):
    rng = np.random.default_rng([2023, seed])
    road, ego, poses, objects, centerline, route = random_scene(rng)
    config = PdmParameters(reference=bool(rng.integers(2)))
    seen = see(objects, ego, config)
    more = {"lateral_speed_mps": rng.normal(0.0, 0.1), "lateral_accel_mps2": rng.normal(0.0, 3.0)}
    more["reference"] = config.reference
    fast, readable = simulate_proposals(poses, ego, **more), readable_simulate.simulate_proposals(poses, ego, **more)
    np.testing.assert_allclose(fast.states, readable.states, rtol=0.0, atol=1e-8)
    np.testing.assert_allclose(fast.corners, readable.corners, rtol=0.0, atol=1e-8)

    areas, spelled = Areas.near(road, fast.centers[0, 0]), ReadableAreas.near(road, fast.centers[0, 0])
    assert areas.lane_ids == spelled.lane_ids
    where = areas.ego_areas(fast.corners, fast.centers, route)
    assert (where == spelled.ego_areas(fast.corners, fast.centers, route)).all()
    points = fast.states[:, :, :2]
    assert (areas.in_intersection(points) == spelled.in_intersection(points)).all()

    got = score_proposals(fast, seen, centerline, areas, route, config)
    want = readable_score.score_proposals(fast, seen, centerline, spelled, route, config)
    np.testing.assert_array_equal(got.values[:, [0, 1, 2, 4, 5]], want.values[:, [0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(got.about, want.about)
    np.testing.assert_array_equal(got.collision_s, want.collision_s)
    np.testing.assert_array_equal(got.collision_about, want.collision_about)
    np.testing.assert_allclose(got.measured, want.measured, rtol=0.0, atol=1e-8)
    np.testing.assert_allclose(got.score, want.score, rtol=0.0, atol=1e-9)


def test_the_random_scenes_show_every_value_of_every_term():
    seen: list[set[float]] = [set() for _ in NAMES]
    for seed in range(40):
        rng = np.random.default_rng([2023, seed])
        road, ego, poses, objects, centerline, route = random_scene(rng)
        config = PdmParameters()
        simulated = simulate_proposals(poses, ego)
        areas = Areas.near(road, simulated.centers[0, 0])
        where = areas.ego_areas(simulated.corners, simulated.centers, route)
        assert where.shape == (6, 41, 3)
        scores = score_proposals(simulated, see(objects, ego, config), centerline, areas, route, config)
        for k in range(len(NAMES)):
            seen[k] |= set(scores.values[:, k].tolist())
    assert seen[0] == seen[2] == {0.0, 0.5, 1.0}
    assert seen[1] == seen[4] == seen[5] == {0.0, 1.0}


def test_a_box_over_two_lanes_is_in_several_and_off_its_route_when_its_middle_is():
    road = straight_map(200.0, n_lanes=2)
    areas = Areas.near(road, np.array([20.0, 0.0]))
    ego = EgoState(time_s=0.0, x_m=20.0, y_m=1.75, heading_rad=0.0, speed_mps=0.0)
    simulated = simulate_proposals(straight(ego, 0.0, y_m=1.75), ego)
    where = areas.ego_areas(simulated.corners, simulated.centers, ("0-0",))[0, 0]
    assert where[MULTIPLE_LANES]
    assert not where[NON_DRIVABLE]
    assert where[ONCOMING]  # on the very line between two lanes it is in neither


# --- The emergency brake ---------------------------------------------------------------------------------------------


def test_the_brake_is_for_a_slow_ego_and_a_near_collision():
    config = PdmParameters()
    assert must_brake(2.0, 5.0, config)
    assert not must_brake(2.1, 5.0, config)
    assert not must_brake(1.0, 5.1, config)
    assert not must_brake(math.inf, 0.0, config)


def test_the_reference_brake_asks_to_drive_backwards_and_the_mended_one_to_stand():
    ego = EgoState(time_s=3.0, x_m=1.0, y_m=2.0, heading_rad=0.5, speed_mps=2.0)
    back = emergency_trajectory(ego, PdmParameters())
    stand = emergency_trajectory(ego, PdmParameters(reference=False))
    assert back.shape == stand.shape == (81, 3)
    # 1.1 (2 - 4.05) m/s for 8 s
    np.testing.assert_allclose(back[-1], [1.0 - 18.04 * math.cos(0.5), 2.0 - 18.04 * math.sin(0.5), 0.5])
    driven = np.hypot(*(stand[:, :2] - stand[0, :2]).T)
    assert driven[-1] == pytest.approx(2.0**2 / (2 * 4.05))
    assert (np.diff(driven) >= 0.0).all()
