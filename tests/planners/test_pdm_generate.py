"""The forecast and roll-out of PDM-Closed's proposals: what a driver would notice; the fast version held to the readable."""

import dataclasses

import numpy as np
import pytest
import shapely
from builders import car, ego_state, straight_map, tracked

from nsdrive.world.lane_map import Lane
from nsdrive.world.roadblocks import headings_of
from nsdrive.world.types import OBJECT_KINDS, EgoState, ObjectFrame, TrackedObject
from nsdrive.world.vehicle import PACIFICA
from planners.pdm import generate as fast
from planners.pdm import readable_rollout as readable
from planners.pdm.config import PdmParameters
from planners.pdm.corridor import INSIDE, UNSURE, boxes_in_corridor, corridor_line
from planners.pdm.forecast import RED_LIGHT, corners_of, forecast
from planners.pdm.generate import corridor_polygon, extend, generate, target_speeds
from planners.pdm.paths import ProposalPath, blocks_of, offset
from planners.pdm.route import RouteLanes, centerline_path
from planners.pdm.tree import tree_ranks

PUBLIC, MENDED = PdmParameters(), PdmParameters(reference=False)
SIZES = {"vehicle": (4.7, 1.9), "pedestrian": (0.7, 0.7), "bicycle": (1.8, 0.6)}


def three(path: ProposalPath) -> list[ProposalPath]:
    return [path, offset(path, -1.0), offset(path, 1.0)]


def straight_paths(length_m: float = 300.0) -> list[ProposalPath]:
    return three(centerline_path(straight_map(length_m), ["0-0", "1-0"]))


def seen(objects: list[TrackedObject], ego: EgoState, config: PdmParameters = PUBLIC, **kwargs):
    known = {"lights": {}, "route_lanes": {}, "ignored_ids": frozenset()} | kwargs
    return forecast(ObjectFrame.of(objects), ego=ego, config=config, **known)


def proposals(objects: list[TrackedObject], ego: EgoState, config: PdmParameters = PUBLIC, **kwargs):
    targets = target_speeds(kwargs.pop("limit_mps", 13.4), config)
    return generate(straight_paths(), targets, seen(objects, ego, config, **kwargs), ego, config)


# ---- what a driver would notice ----


def test_on_a_free_road_each_proposal_approaches_its_own_speed_on_its_own_path():
    rolled = proposals([], ego_state(x_m=20.0, speed_mps=8.0), MENDED, limit_mps=10.0)
    assert rolled.poses.shape == (15, 41, 3)
    assert rolled.leads == (None,) * 15
    assert rolled.idm[4, -1, 1] > 9.0  # the fifth aims at 10 m/s
    assert rolled.idm[0, -1, 1] < 4.0  # the first at 2 m/s
    assert np.all(np.diff(rolled.idm[:5, -1, 1]) > 0.0)
    assert rolled.poses[[0, 5, 10], -1, 1] == pytest.approx([0.0, -1.0, 1.0])
    assert rolled.path_of.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert rolled.fraction_of.tolist() == list(range(5)) * 3


def test_where_the_lane_has_no_limit_fifteen_metres_per_second_are_aimed_at():
    assert target_speeds(None, PUBLIC) == pytest.approx([3.0, 6.0, 9.0, 12.0, 15.0])
    assert target_speeds(10.0, PUBLIC)[-1] == 10.0
    assert target_speeds(float("nan"), PUBLIC)[-1] == 15.0


@pytest.mark.parametrize("config", [PUBLIC, MENDED])
def test_every_proposal_stops_behind_a_parked_car(config):
    ego = ego_state(x_m=20.0, speed_mps=8.0)
    rolled = proposals([car("parked", 60.0)], ego, config)
    whole = [extend(rolled, p, config) for p in range(15)]
    for plan in whole:
        assert plan.poses.shape == (81, 3)
        assert plan.poses[-1, 0] + PACIFICA.front_m < 60.0 - 4.7 / 2
    lead = rolled.leads[4]
    assert (lead.about, lead.red_light, lead.speed_mps) == ("parked", False, 0.0)
    assert lead.gap_m == pytest.approx(60.0 - 4.7 / 2 - rolled.poses[4, lead.step - 1, 0] - PACIFICA.front_m)


def test_without_the_car_ahead_the_proposals_differ_and_without_the_one_beside_they_do_not():
    ego, lead, beside = ego_state(x_m=20.0), car("lead", 45.0, speed_mps=3.0), car("beside", 45.0, 6.0)
    both = proposals([lead, beside], ego)
    assert np.array_equal(proposals([lead], ego).poses, both.poses)
    assert not np.allclose(proposals([beside], ego).poses, both.poses)


def test_a_car_that_will_cross_is_seen_when_it_is_there():
    ego = ego_state(x_m=20.0, speed_mps=8.0)
    crossing = car("crossing", 45.0, -14.0, speed_mps=7.0, heading_rad=np.pi / 2)
    lead = proposals([crossing], ego).leads[4]
    assert lead.about == "crossing"
    assert 10 < lead.step < 25  # (14 m less half a car and half the corridor) at 7 m/s
    assert abs(lead.speed_mps) < 1e-9  # across


def test_a_red_light_is_stopped_at_and_a_green_one_is_not():
    road = straight_map(200.0, n_pieces=2, signal=True)
    route, ego = RouteLanes(road, ["block-0", "block-1"]), ego_state(x_m=60.0, speed_mps=8.0)
    paths, targets = three(centerline_path(road, ["0-0", "1-0"])), target_speeds(13.4, PUBLIC)

    def rolled(state: str):
        return generate(paths, targets, seen([], ego, lights={"1-0": state}, route_lanes=route), ego, PUBLIC)

    red, green = rolled("red"), rolled("green")
    assert red.leads[0].about == "1-0"
    assert red.leads[0].red_light
    assert extend(red, 4, PUBLIC).poses[-1, 0] + PACIFICA.front_m < 100.0
    assert green.leads == (None,) * 15
    off_route = seen([], ego, lights={"1-0": "red"}, route_lanes=RouteLanes(road, ["block-0"]))
    assert off_route.red_lights == ()


def test_a_red_light_that_the_ego_stands_in_is_ignored_from_then_on():
    road = straight_map(200.0, n_pieces=2, signal=True)
    route, lights = RouteLanes(road, ["block-1"]), {"1-0": "red"}
    inside = seen([], ego_state(x_m=120.0), lights=lights, route_lanes=route)
    assert inside.red_ignored == (True,)
    assert inside.ignored_ids == {RED_LIGHT + "1-0"}
    later = seen([], ego_state(x_m=80.0), lights=lights, route_lanes=route, ignored_ids=inside.ignored_ids)
    assert later.red_ignored == (True,)
    assert seen([], ego_state(x_m=97.0), lights=lights, route_lanes=route).red_ignored == (False,)  # half inside


def test_the_public_code_brakes_in_its_first_step_and_the_mended_one_need_not():
    ego = ego_state(x_m=20.0, speed_mps=8.0)
    assert proposals([], ego).idm[4, 1, 1] == pytest.approx(8.0 - 0.1 * PUBLIC.decel_max_mps2)
    assert proposals([], ego, MENDED).idm[4, 1, 1] > 8.0


def test_who_brakes_hard_for_an_oncoming_car_stops_and_only_the_public_code_then_drives_backwards():
    objects, ego = [car("oncoming", 50.0, speed_mps=12.0, heading_rad=np.pi)], ego_state(x_m=20.0, speed_mps=5.0)
    assert proposals(objects, ego).idm[..., 1].min() < 0.0
    mended = proposals(objects, ego, MENDED).idm
    assert mended[..., 1].min() == 0.0
    assert np.diff(mended[..., 0], axis=1).min() >= 0.0


def test_the_lead_of_a_slow_proposal_leaks_into_a_faster_one_as_in_the_public_code():
    """The cyclist rides into the way when the fast proposals have passed it: they have nothing ahead, the slow ones do."""
    heading_rad, at = np.pi / 2 + 0.5, np.array([44.0, -1.9])
    x, y = at - 2.0 * 7.0 * np.array([np.cos(heading_rad), np.sin(heading_rad)])
    cyclist = tracked("c", x, y, kind="bicycle", heading_rad=heading_rad, speed_mps=7.0, length_m=1.8, width_m=0.6)
    ego = ego_state(x_m=20.0, speed_mps=14.0)
    public, mended = (proposals([cyclist], ego, c).lead_states[:5].reshape(-1, 3) for c in (PUBLIC, MENDED))
    free = [states[states[:, 2] > 0.0] for states in (public, mended)]  # a rear length is taken off the path's end only
    assert (free[0][:, 1] != 0.0).any()
    assert (free[1][:, 1] == 0.0).all()


# ---- the forecast ----


def test_the_nearest_of_each_kind_are_kept_in_the_public_order():
    rng = np.random.default_rng(0)
    objects = [
        tracked(f"{kind}-{i}", *rng.uniform(-34.0, 34.0, 2), kind=kind) for kind in OBJECT_KINDS for i in range(60)
    ]
    found = seen(objects, ego_state(x_m=500.0, y_m=500.0))
    assert len(found) == 0
    found = seen([car("parked", 0.0, 8.0), *objects], ego_state())
    kinds = [track_id.split("-")[0] for track_id in found.ids]
    assert [kinds.count(k) for k in ("vehicle", "pedestrian", "bicycle")] == [49, 25, 10]  # and one car named parked
    assert not found.is_agent[:50].any()
    assert found.is_agent[50:].all()
    center = np.array([PACIFICA.rear_axle_to_center_m, 0.0])
    away = np.hypot(*(found.boxes[:, :2] - center).T)
    for part in (slice(0, 50), slice(50, 100), slice(100, 125), slice(125, 135)):
        assert np.all(np.diff(away[part]) >= 0.0)


def test_what_the_ego_overlaps_is_ignored_now_and_gone_next_time():
    ego, objects = ego_state(), [car("inside", 2.0), car("ahead", 20.0)]
    first = seen(objects, ego)
    assert dict(zip(first.ids, first.ignored.tolist(), strict=True)) == {"inside": True, "ahead": False}
    assert first.ignored_ids == {"inside"}
    assert seen(objects, ego, ignored_ids=first.ignored_ids).ids == ("ahead",)
    assert all(lead.about == "ahead" for lead in proposals(objects, ego_state(x_m=0.1)).leads)


def test_velocities_lie_along_the_heading_and_things_do_not_move():
    backing = dataclasses.replace(car("backing", 20.0), vx_mps=-2.0, vy_mps=0.5)
    drifting_cone = dataclasses.replace(tracked("cone", 10.0, kind="traffic_cone"), vx_mps=3.0)
    found = seen([backing, drifting_cone], ego_state())
    assert found.ids == ("cone", "backing")
    assert found.velocities_mps == pytest.approx(np.array([[0.0, 0.0], [-np.hypot(2.0, 0.5), 0.0]]), abs=1e-12)
    middle = found.corners_at(5)[1].mean(axis=0)
    assert middle[0] == pytest.approx(20.0 - 0.4 * np.hypot(2.0, 0.5))  # of the sample before, 0.4 s


@pytest.mark.parametrize("field", ["x_m", "heading_rad", "length_m", "vx_mps"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_objects_whose_numbers_make_no_sense_are_dropped_by_name(field, value):
    objects = [car("good", 30.0), dataclasses.replace(car("bad", 20.0), **{field: value})]
    found = seen(objects, ego_state())
    assert found.ids == ("good",)
    assert found.dropped == ("bad",)
    assert np.isfinite(proposals(objects, ego_state(x_m=5.0)).poses).all()


@pytest.mark.parametrize("config", [PUBLIC, MENDED])
@pytest.mark.parametrize("speed_mps", [np.nan, -3.0, 60.0])
@pytest.mark.parametrize("x_m", [-40.0, 299.9, 300.0, 500.0])
def test_an_ego_beyond_the_path_or_at_no_sensible_speed_gets_proposals_too(config, speed_mps, x_m):
    ego = ego_state(x_m=x_m, y_m=3.0, speed_mps=speed_mps)
    rolled = proposals([car("near", x_m + 8.0), car("far", 280.0)], ego, config, limit_mps=0.0)
    assert np.isfinite(rolled.poses).all()
    assert np.isfinite(extend(rolled, 14, config).poses).all()


# ---- the fast version is the readable one ----


def winding_world(seed: int, n_objects: int):
    """A winding path with doubled points, the ego on or beside it, agents of all kinds driving, turning and overlapping."""
    rng = np.random.default_rng([seed, n_objects])
    n = 260
    heading = rng.uniform(-3.0, 3.0) + np.cumsum(np.clip(np.cumsum(rng.normal(0.0, 0.005, n)), -0.12, 0.12))
    steps = rng.uniform(0.4, 1.3, n)[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    points = np.array([664000.0, 3997000.0]) + np.cumsum(steps, axis=0)
    half = n // 2
    parts = [points[: half + 1], points[half:]]
    path = ProposalPath.of(
        np.concatenate(parts), np.concatenate([headings_of(part) for part in parts]), ["lane"] * (n + 1)
    )

    def beside(progress: float, aside: float) -> np.ndarray:
        pose = path.pose_at(progress)
        return pose + np.array([-np.sin(pose[2]) * aside, np.cos(pose[2]) * aside, 0.0])

    start = rng.uniform(0.0, path.length_m if rng.random() < 0.2 else 120.0)
    x, y, along = beside(start, rng.normal(0.0, 1.0))
    ego = ego_state(x, y, along + rng.normal(0.0, 0.1), speed_mps=max(0.0, rng.normal(8.0, 5.0)))
    objects = []
    for i in range(n_objects):
        kind = str(rng.choice(OBJECT_KINDS)) if rng.random() < 0.5 else "vehicle"
        x, y, along = beside(start + rng.uniform(-30.0, 50.0), rng.normal(0.0, 5.0))
        heading_rad = along + rng.choice([0.0, np.pi, rng.uniform(-3.0, 3.0)]) + rng.normal(0.0, 0.05)
        length_m, width_m = SIZES.get(kind, (0.5, 0.5))
        moving = rng.choice([0.0, rng.uniform(-2.0, 15.0)])
        thing = tracked(f"t{i}", x, y, kind=kind, heading_rad=heading_rad, length_m=length_m, width_m=width_m)
        direction = heading_rad + rng.normal(0.0, 0.1)
        objects.append(dataclasses.replace(thing, vx_mps=moving * np.cos(direction), vy_mps=moving * np.sin(direction)))
    lanes = {}
    for j in range(int(rng.integers(0, 3))):
        ahead = start + rng.uniform(-20.0, 50.0)
        left, middle, right = (
            np.array([beside(ahead + s, j + aside)[:2] for s in range(20)]) for aside in (1.7, 0.0, -1.7)
        )
        lanes[f"c{j}"] = Lane(
            lane_id=f"c{j}", roadblock_id="r", is_connector=True, centerline=middle, left_boundary=left,
            right_boundary=right, speed_limit_mps=None,
        )  # fmt: skip
    return path, ego, ObjectFrame.of(objects), lanes


@pytest.mark.parametrize("config", [PUBLIC, MENDED], ids=["public", "mended"])
@pytest.mark.parametrize(("seed", "n_objects"), [(0, 0), (1, 5), (2, 20), (3, 60), (4, 20), (5, 60), (6, 300)])
def test_the_fast_roll_out_is_the_readable_one(config, seed, n_objects):
    path, ego, objects, lanes = winding_world(seed, n_objects)
    lights = dict.fromkeys(lanes, "red")
    targets = target_speeds((5.0, 13.4, 25.0)[seed % 3], config)
    quick = forecast(objects, lights, ego, lanes, frozenset(), config)
    plain = readable.forecast(objects, lights, ego, lanes, frozenset(), config)
    assert quick.ids == plain.ids
    assert quick.ignored_ids == plain.ignored_ids
    assert quick.red_ignored == plain.red_ignored
    for column in ("boxes", "velocities_mps", "is_agent", "speeds_mps", "headings_rad", "ignored"):
        assert getattr(quick, column) == pytest.approx(getattr(plain, column), abs=1e-12)

    paths = three(path)
    rolled, specified = (
        fast.generate(paths, targets, quick, ego, config),
        readable.generate(paths, targets, plain, ego, config),
    )
    for column in ("poses", "idm", "lead_states"):
        assert getattr(rolled, column) == pytest.approx(getattr(specified, column), abs=1e-9)
    for lead, other in zip(rolled.leads, specified.leads, strict=True):
        assert (lead is None) == (other is None)
        if lead is not None:
            assert (lead.about, lead.red_light, lead.step) == (other.about, other.red_light, other.step)
            assert (lead.gap_m, lead.speed_mps) == pytest.approx((other.gap_m, other.speed_mps), abs=1e-9)
    chosen = seed % 15
    longer, specified = fast.extend(rolled, chosen, config), readable.extend(specified, chosen, config)
    assert longer.poses == pytest.approx(specified.poses, abs=1e-9)
    assert longer.speeds_mps == pytest.approx(specified.speeds_mps, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_who_is_in_the_corridor_is_what_shapely_says_and_few_have_to_be_asked(seed):
    path, ego, _, _ = winding_world(seed, 0)
    rng = np.random.default_rng(seed)
    start = path.project(ego.x_m, ego.y_m)
    line = corridor_line(path.points, path.headings_rad, path.progress_m, start, start + 80.0, False)
    half_width = 0.5 * PACIFICA.width_m
    n = 4000
    at = path.pose_at(start + rng.uniform(-5.0, 90.0, n))
    aside = rng.choice([-1.0, 1.0], n) * rng.uniform(1.1, 4.0, n)
    turned = at[:, 2] + rng.uniform(-3.0, 3.0, n)
    boxes = np.column_stack(
        [at[:, 0] - np.sin(at[:, 2]) * aside, at[:, 1] + np.cos(at[:, 2]) * aside, turned, np.full(n, 2.0), np.full(n, 1.0)]
    )  # fmt: skip
    corners = corners_of(boxes)
    found = boxes_in_corridor(
        line, blocks_of(line), half_width, corners, np.zeros((n, 2)), np.zeros(n, bool), np.array([0]), 0.1
    )[0]
    truth = shapely.intersects(corridor_polygon(line, half_width), shapely.polygons(corners))
    sure = found != UNSURE
    assert np.array_equal(found[sure] == INSIDE, truth[sure])
    assert 0.2 < truth.mean() < 0.8
    assert np.mean(~sure) < 0.02


@pytest.mark.parametrize("n", [1, 2, 10, 11, 60, 101, 300])
def test_the_order_among_equals_is_that_of_shapelys_search_tree(n):
    rng = np.random.default_rng(n)
    middles, sizes = 4e6 + rng.uniform(-50.0, 50.0, (n, 2)), rng.uniform(0.1, 5.0, (n, 2))
    bounds = np.concatenate([middles - sizes, middles + sizes], axis=1)
    ranks = np.zeros(n, dtype=np.int64)
    tree_ranks(bounds, ranks)
    everywhere = shapely.box(0.0, 0.0, 1e7, 1e7)
    met = shapely.STRtree(shapely.box(*bounds.T), 10).query(everywhere, predicate="intersects")
    assert np.argsort(ranks).tolist() == met.tolist()
