"""Where PDM-Closed drives: paths, the repair of a route, the lane it starts in, the centerline."""

import dataclasses
import itertools

import numpy as np
import pytest
import shapely
from builders import curved_map, ego_state, road_map, straight_map

from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.roadblocks import headings_of, roadblocks_of
from nsdrive.world.route_repair import repair_route
from planners.pdm.config import PdmParameters
from planners.pdm.paths import ProposalPath, offset
from planners.pdm.route import RouteLanes, centerline_lanes, centerline_path, lay_out, starting_lane


def winding(seed: int, n: int = 300) -> ProposalPath:
    """A winding path with points that come twice, as where lanes join, far from the origin like a city's."""
    rng = np.random.default_rng(seed)
    heading = rng.uniform(-3.0, 3.0) + np.cumsum(np.clip(np.cumsum(rng.normal(0.0, 0.004, n)), -0.1, 0.1))
    steps = rng.uniform(0.5, 1.2, n)[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    points = np.array([664000.0, 3997000.0]) + np.cumsum(steps, axis=0)
    cuts = np.unique([0, *rng.integers(2, n - 2, 8), n - 1])
    parts = [points[a : b + 1] for a, b in itertools.pairwise(cuts)]
    xy = np.concatenate(parts)
    return ProposalPath.of(xy, np.concatenate([headings_of(part) for part in parts]), ["lane"] * len(xy))


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_point_of_a_path_is_shapelys(seed):
    path, rng = winding(seed), np.random.default_rng(seed)
    near = path.points[rng.integers(0, len(path.points), 200)] + rng.normal(0.0, 10.0, (200, 2))
    line = shapely.LineString(path.points)
    assert path.project_points(near) == pytest.approx(shapely.line_locate_point(line, shapely.points(near)), abs=1e-9)
    assert path.length_m == pytest.approx(line.length, abs=1e-9)


def test_a_pose_on_a_path_is_between_its_points_and_held_within_its_ends():
    path = ProposalPath.of([[0, 0], [2, 0], [2, 0], [2, 2]], [0.0, 0.0, np.pi / 2, np.pi / 2], ["a", "a", "b", "b"])
    assert path.pose_at(1.0) == pytest.approx([1.0, 0.0, 0.0])
    assert path.pose_at(3.0) == pytest.approx([2.0, 1.0, np.pi / 2])
    assert path.pose_at([-5.0, 9.0]) == pytest.approx(np.array([[1e-5, 0.0, 0.0], [2.0, 2.0, np.pi / 2]]))
    assert path.lane_at(1.9) == "a"
    assert path.lane_at(2.1) == "b"


def test_headings_that_pass_through_pi_do_not_turn_round():
    angles = np.linspace(3.0, 3.3, 4)
    points = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=-1), axis=0)
    path = ProposalPath.of(points, np.arctan2(np.sin(angles), np.cos(angles)), ["a"] * 4)
    assert np.abs(np.diff(path.headings_rad)).max() < 0.2
    assert abs(path.pose_at(1.5)[2]) > 2.9


def test_an_offset_path_runs_beside_and_left_is_positive():
    path = centerline_path(straight_map(100.0), ["0-0", "1-0"])
    assert offset(path, 1.0).points[:, 1] == pytest.approx(np.ones(len(path.points)))
    assert offset(path, -1.0).pose_at(10.0) == pytest.approx([10.0, -1.0, 0.0])


@pytest.mark.parametrize(
    "points", [[[0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [np.nan, 0.0]], np.zeros((0, 2))]
)
def test_what_is_no_path_is_refused(points):
    with pytest.raises(ValueError, match=r"A path needs"):
        ProposalPath.of(points, np.zeros(len(points)), ["a"] * len(points))


def test_a_centerline_keeps_the_lanes_own_points_and_doubles_them_at_joints():
    road = straight_map(100.0, n_pieces=2)
    path = centerline_path(road, ["0-0", "1-0"])
    assert len(path.points) == len(road.lanes["0-0"].centerline) + len(road.lanes["1-0"].centerline)
    assert (np.diff(path.progress_m) == 0.0).sum() == 1
    assert path.length_m == pytest.approx(100.0)


def chain(n_pieces: int, n_lanes: int = 1) -> LaneMap:
    line = np.column_stack([np.arange(0.0, 30.0 * n_pieces + 0.5), np.zeros(30 * n_pieces + 1)])
    return road_map(line, n_lanes, 10.0, n_pieces)


def test_missing_roadblocks_of_a_route_are_filled_in():
    road = chain(5)
    assert repair_route(road, ["block-0", "block-4"], np.array([5.0, 0.0, 0.0])) == tuple(
        f"block-{i}" for i in range(5)
    )


def test_a_route_that_begins_ahead_of_the_ego_is_led_to():
    road = chain(5)
    assert repair_route(road, ["block-3", "block-4"], np.array([5.0, 0.0, 0.0])) == tuple(
        f"block-{i}" for i in range(5)
    )


def test_what_lies_behind_the_ego_stays_in_the_route_and_the_centerline_begins_at_its_lane():
    road, ego = chain(4), ego_state(x_m=65.0)
    layout = lay_out(road, ["block-0", "block-1", "block-2", "block-3"], ego, PdmParameters())
    assert layout.roadblock_ids == ("block-0", "block-1", "block-2", "block-3")
    assert layout.start_lane == "2-0"
    assert layout.centerline_lanes == ("2-0", "3-0")
    assert layout.problems == ()


def test_a_route_is_cut_where_it_would_cross_itself():
    def connector(block: str, angle: float, following: tuple[str, ...]) -> Lane:
        along = np.array([np.cos(angle), np.sin(angle)])
        line = np.linspace(-10.0, 10.0, 21)[:, None] * along
        side = 1.75 * np.array([-along[1], along[0]])
        return Lane(
            lane_id=f"{block}-lane", roadblock_id=block, is_connector=True, centerline=line, left_boundary=line + side,
            right_boundary=line - side, speed_limit_mps=None, outgoing=following,
        )  # fmt: skip

    across = [connector("first", 0.0, ("between",)), connector("second", np.pi / 2, ())]
    between = dataclasses.replace(
        chain(1).lanes["0-0"], lane_id="between", roadblock_id="between", outgoing=("second-lane",)
    )
    crossing = LaneMap(name="test", lanes={lane.lane_id: lane for lane in (*across, between)})
    assert repair_route(crossing, ["first", "between", "second"], np.array([-5.0, 0.0, 0.0])) == ("first", "between")


def test_the_centerline_takes_the_lane_that_leads_on():
    road = chain(3, n_lanes=2)
    lanes = dict(road.lanes)
    lanes["1-0"] = dataclasses.replace(lanes["1-0"], outgoing=())  # the right lane ends
    lanes["0-0"] = dataclasses.replace(lanes["0-0"], outgoing=("1-0", "1-1"))
    road = dataclasses.replace(road, lanes=lanes)
    assert centerline_lanes(road, "0-0", ["block-0", "block-1", "block-2"]) == ("0-0", "1-1", "2-1")
    assert centerline_lanes(road, "1-0", ["block-0", "block-1", "block-2"]) == ("1-0",)


def test_the_ego_starts_in_the_lane_under_its_rear_axle_or_else_in_the_nearest():
    road = chain(2, n_lanes=2)
    lanes = RouteLanes(road, ["block-0", "block-1"])
    assert starting_lane(road, lanes, ego_state(x_m=5.0, y_m=3.0)) == "0-1"
    assert starting_lane(road, lanes, ego_state(x_m=5.0, y_m=-9.0)) == "0-0"
    assert starting_lane(road, lanes, ego_state(x_m=50.0, y_m=30.0)) == "1-1"


def test_of_equally_near_roadblocks_the_search_takes_the_last_met():
    """The public code's search keeps no book of where it has been, so that a roadblock's last discoverer is its parent."""
    piece = chain(1).lanes["0-0"]
    graph = {"a": ("b", "c"), "b": ("d",), "c": ("d",), "d": ()}
    lanes = {
        name: dataclasses.replace(piece, lane_id=name, roadblock_id=name, outgoing=following)
        for name, following in graph.items()
    }
    blocks = roadblocks_of(LaneMap(name="test", lanes=lanes))
    assert blocks.search("a", ["d"], 30) == ["a", "c", "d"]
    assert blocks.search("d", ["a"], 30, forward=False) == ["d", "c", "a"]
    assert blocks.search("a", ["d"], 2) is None


@pytest.mark.parametrize("route", [(), ("nowhere",), ("block-0", "nowhere", "block-1"), ("block-1", "block-0")])
@pytest.mark.parametrize("y_m", [0.0, 60.0])
def test_there_is_always_a_path_whatever_the_route(route, y_m):
    layout = lay_out(curved_map(30.0), route, ego_state(x_m=10.0, y_m=y_m), PdmParameters())
    assert layout.centerline.length_m > 50.0
    assert (layout.problems != ()) == (not any(block.startswith("block") for block in route))


def test_a_map_without_lanes_leads_straight_ahead_and_says_so():
    layout = lay_out(LaneMap(name="void", lanes={}), (), ego_state(heading_rad=np.pi / 2), PdmParameters())
    assert layout.start_lane is None
    assert "straight ahead" in layout.problems[-1]
    assert layout.centerline.pose_at(50.0) == pytest.approx([0.0, 50.0, np.pi / 2])


@pytest.mark.parametrize("x_m", [np.nan, np.inf])
def test_an_ego_without_a_finite_pose_starts_where_the_route_does(x_m):
    road = chain(2)
    layout = lay_out(road, ["block-0", "block-1"], ego_state(x_m=x_m), PdmParameters())
    assert layout.centerline_lanes == ("0-0", "1-0")
    assert "not finite" in layout.problems[0]
    assert starting_lane(road, layout.lanes, ego_state(x_m=x_m)) == "0-0"


@pytest.mark.parametrize("centerline", [np.zeros((0, 2)), np.zeros((1, 2)), np.zeros((5, 2))])
def test_a_lane_that_is_hardly_one_does_not_stop_the_planner(centerline):
    road, nothing = chain(3), np.zeros((0, 2))
    lanes = dict(road.lanes)
    lanes["0-0"] = dataclasses.replace(
        lanes["0-0"], centerline=centerline, left_boundary=nothing, right_boundary=nothing
    )
    road = dataclasses.replace(road, lanes=lanes)
    for x_m in (5.0, 45.0):
        layout = lay_out(road, ["block-0", "block-1", "block-2"], ego_state(x_m=x_m), PdmParameters())
        assert layout.centerline.length_m >= 30.0
