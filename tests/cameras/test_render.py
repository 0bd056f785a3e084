"""What a driver would notice in the pictures."""

from dataclasses import replace

import numpy as np
import pytest
from builders import straight_map, tracked

from nsdrive.cameras.ground import plan_ground
from nsdrive.cameras.render import Renderer, encode_jpeg
from nsdrive.cameras.rig import make_rig, project
from nsdrive.cameras.scenery import plan_scenery
from nsdrive.cameras.shading import FACADE
from nsdrive.cameras.street import LAMP_SPACING_M, NEAR_HEAD_Z_M
from nsdrive.world.lane_map import LaneMap, Signal
from nsdrive.world.types import ObjectFrame

RIG = make_rig("3")
POSE = np.array([40.0, 0.0, 0.0])  # on lane 0, looking along x
CAR = {"length_m": 4.6, "width_m": 1.9, "height_m": 1.5}


@pytest.fixture(scope="module")
def road():
    return straight_map(300.0, n_lanes=2)


@pytest.fixture(scope="module")
def renderer(road):
    return Renderer(road, 3)


def see(renderer, *objects, lights=None, pose=POSE, rig=RIG):
    return renderer.render(pose, ObjectFrame.of(list(objects)), lights or {}, rig)


def thing(track_id, x, y, kind="vehicle", accel=0.0, indicator=0, speed=8.0, heading=0.0, **size):
    """An object at (x, y) ahead of and left of the ego's rear axle."""
    sizes = CAR if kind == "vehicle" else {"length_m": 0.6, "width_m": 0.6, "height_m": 1.75}
    o = tracked(track_id, POSE[0] + x, POSE[1] + y, kind=kind, speed_mps=speed, heading_rad=heading)
    return replace(o, accel_mps2=accel, indicator=indicator, **(sizes | size))


def around(image, pixel, radius=3):
    x, y = (round(float(v)) for v in pixel)
    return image[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].astype(int)


def test_an_object_appears_exactly_where_its_projection_says(renderer):
    crate = thing("crate", 16.0, 1.5, kind="generic_object", length_m=2.0, width_m=2.0, height_m=2.0)
    empty, full = see(renderer)["CAM_F0"].rgb, see(renderer, crate)["CAM_F0"]
    changed = np.abs(full.rgb.astype(int) - empty.astype(int)).sum(axis=2) > 60
    corners = np.array([[16 + a, 1.5 + b, z] for a in (-1, 1) for b in (-1, 1) for z in (0, 2)], dtype=float)
    pixels, _ = project(RIG.cameras[0], corners)
    rows, columns = np.nonzero(changed[:, :])
    upper = rows < pixels[:, 1].max() - 8  # its shadow lies lower
    assert rows.min() == pytest.approx(pixels[:, 1].min(), abs=2.0)
    assert columns[upper].min() == pytest.approx(pixels[:, 0].min(), abs=3.0)
    assert full.seen["crate"] == pytest.approx(changed.sum(), rel=0.35)


def test_a_braking_car_shows_red_and_a_coasting_one_does_not(renderer):
    def redness(accel):
        image = see(renderer, thing("lead", 22.0, 0.0, accel=accel))["CAM_F0"].rgb.astype(int)
        return int((image[..., 0] - image[..., 1:].max(axis=2) > 120).sum())

    assert redness(-2.0) > redness(0.0) + 15


def test_a_car_that_stands_in_its_lane_brakes_and_a_parked_one_beside_it_does_not(renderer):
    def lamp(y):
        standing = see(renderer, thing("still", 18.0, y, speed=0.0))["CAM_F0"].rgb.astype(int)
        coasting = see(renderer, thing("still", 18.0, y, speed=9.0))["CAM_F0"].rgb.astype(int)
        return int((standing[..., 0] - coasting[..., 0]).max())

    assert lamp(0.0) > 80
    assert lamp(-3.2) == 0


def test_an_indicator_lights_the_side_that_it_is_on(renderer):
    def picture(indicator):
        return see(renderer, thing("lead", 14.0, 0.0, indicator=indicator))["CAM_F0"].rgb.astype(int)

    def amber(indicator):
        image = picture(indicator)
        lit = (image[..., 0] > 200) & (image[..., 1] > 120) & (image[..., 2] < 110)
        return np.nonzero(lit & (image != picture(0)).any(axis=2))[1]  # yellow paint is amber, too

    middle = project(RIG.cameras[0], np.array([[12.0, 0.0, 0.8]]))[0][0, 0]
    assert len(amber(1)) > 3
    assert (amber(1) < middle).all()
    assert len(amber(-1)) > 3
    assert (amber(-1) > middle).all()


@pytest.mark.parametrize(("state", "row", "channel"), [("red", 1, 0), ("green", -1, 1)])
def test_a_signal_shows_its_colour_at_its_place_forty_metres_ahead(road, state, row, channel):
    signal = Signal(signal_id="s", x_m=POSE[0] + 40.0, y_m=-4.5, heading_rad=0.0, connector_ids=("c",))
    renderer = Renderer(replace(road, signals=(signal,)), 3)
    view = see(renderer, lights={"c": state})["CAM_F0"]
    pixel, _ = project(RIG.cameras[0], np.array([[40.0 - 0.15, -4.5, NEAR_HEAD_Z_M + row * LAMP_SPACING_M]]))
    patch = around(view.rgb, pixel[0], 1).reshape(-1, 3).max(axis=0)
    assert patch[channel] > 190
    assert patch[channel] - patch[1 - channel] > 60
    assert view.seen["signal:s"] > 10
    dark = see(renderer, lights={})["CAM_F0"]
    assert around(dark.rgb, pixel[0], 1).max() < 150, "a signal without a known state must show no light"


def test_a_hidden_car_is_not_seen_and_the_one_that_hides_it_is(renderer):
    truck = thing("truck", 14.0, 0.0, length_m=9.5, width_m=2.6, height_m=3.6)
    view = see(renderer, truck, thing("hidden", 32.0, 0.0))["CAM_F0"]
    assert view.seen["truck"] > 5000
    assert "hidden" not in view.seen
    assert see(renderer, thing("hidden", 32.0, 0.0))["CAM_F0"].seen["hidden"] > 300


def test_a_car_to_the_left_is_in_the_left_camera_only(renderer):
    views = see(renderer, thing("beside", 8.0, 10.0))
    assert views["CAM_L0"].seen["beside"] > 1000
    assert "beside" not in views["CAM_R0"].seen


def test_same_input_gives_the_same_bytes_from_a_fresh_renderer(road, renderer):
    objects = [thing("a", 20.0, 0.0), thing("b", 12.0, 3.5, kind="pedestrian", speed=1.2)]
    first, second = see(renderer, *objects), see(Renderer(road, 3), *objects)
    for name in first:
        assert encode_jpeg(first[name].rgb) == encode_jpeg(second[name].rgb)
        assert first[name].seen == second[name].seen
    assert encode_jpeg(see(Renderer(road, 4))["CAM_F0"].rgb) != encode_jpeg(see(renderer)["CAM_F0"].rgb)


def test_a_map_far_from_its_origin_is_drawn_as_sharply(road, renderer):
    """City coordinates are millions of metres: a float32 of 4e6 is off by a quarter of a metre."""
    shift = np.array([664_320.0, 3_997_440.0])  # whole repeats of the ground's grain
    moved = {
        lane_id: replace(
            lane,
            centerline=lane.centerline + shift,
            left_boundary=lane.left_boundary + shift,
            right_boundary=lane.right_boundary + shift,
        )
        for lane_id, lane in road.lanes.items()
    }
    lead = thing("lead", 20.0, 0.0)
    here = see(renderer, lead)["CAM_F0"]
    there = Renderer(replace(road, lanes=moved), 3).render(
        POSE + np.array([*shift, 0.0]),
        ObjectFrame.of([replace(lead, x_m=lead.x_m + shift[0], y_m=lead.y_m + shift[1])]),
        {},
        RIG,
    )["CAM_F0"]
    assert there.seen["lead"] == pytest.approx(here.seen["lead"], abs=3)
    assert np.abs(there.rgb.astype(int) - here.rgb.astype(int)).mean() < 1.0


def test_fog_takes_the_contrast_from_what_is_far(renderer):
    def tyre(x):
        """How dark the darkest part of a crate is."""
        box = thing("crate", x, 0.0, kind="generic_object", length_m=2.0, width_m=2.0, height_m=2.0)
        pixel, _ = project(RIG.cameras[0], np.array([[x - 1.0, 0.0, 0.9]]))
        return around(see(renderer, box)["CAM_F0"].rgb, pixel[0], 1).mean()

    near, middle, far = tyre(12.0), tyre(60.0), tyre(150.0)
    assert near < middle < far


def test_every_camera_draws_a_world_without_anything():
    empty = Renderer(LaneMap(name="nowhere", lanes={}), 0)
    views = empty.render(np.zeros(3), ObjectFrame.of([]), {}, make_rig("8"))
    assert len(views) == 8
    for view in views.values():
        assert view.rgb.shape == (360, 640, 3)
        assert view.seen == {}
        assert view.rgb[0].mean() > view.rgb[-1].mean(), "the sky is brighter than the grass"


def test_objects_at_the_camera_behind_it_or_broken_do_no_harm(renderer):
    objects = [
        thing("over", 1.7, 0.0),
        thing("behind", -20.0, 0.0),
        thing("beside", 1.0, 2.0),
        thing("huge", 60.0, 0.0, length_m=400.0, width_m=90.0, height_m=60.0),
        thing("tiny", 9.0, 1.0, length_m=1e-6, width_m=0.0, height_m=0.0),
        thing("lost", float("nan"), 0.0),
        thing("flat", 12.0, -1.0, height_m=float("nan")),
    ]
    views = see(renderer, *objects, rig=make_rig("8"))
    assert "lost" not in views["CAM_F0"].seen
    assert "behind" in views["CAM_B0"].seen
    assert "behind" not in views["CAM_F0"].seen


def test_a_pedestrian_walks_and_keeps_their_clothes(renderer):
    steps = [
        see(renderer, thing("p", 9.0 + d, 0.0, kind="pedestrian", speed=1.3, heading=1.57))["CAM_F0"]
        for d in (0.0, 0.36)
    ]
    assert all(view.seen["p"] > 400 for view in steps)
    sideways = [
        see(renderer, thing("p", 9.0, d, kind="pedestrian", speed=1.3, heading=1.57))["CAM_F0"] for d in (0.0, 0.36)
    ]
    assert abs(sideways[0].seen["p"] - sideways[1].seen["p"]) > 5, (
        "legs apart cover another number of pixels than together"
    )


def test_no_house_stands_on_a_tracked_object(road, renderer):
    ground = plan_ground(road)
    house = next(p for p in plan_scenery(road, ground, 3) if p.mesh.material.max() == FACADE)
    x, y = ground.origin_m + np.array([house.x_m, house.y_m])
    person = replace(thing("p", 0.0, 0.0, kind="pedestrian", speed=0.0), x_m=x, y_m=y)
    look = np.array([x - 8.0, y, 0.0])
    assert see(renderer, person, pose=look)["CAM_F0"].seen["p"] > 300


def test_other_sizes_of_image_see_the_same(renderer):
    lead = thing("lead", 20.0, 0.0)
    small = see(renderer, lead, rig=make_rig("3", width_px=320, height_px=180))["CAM_F0"]
    assert small.rgb.shape == (180, 320, 3)
    assert 4 * small.seen["lead"] == pytest.approx(see(renderer, lead)["CAM_F0"].seen["lead"], rel=0.1)
    odd = see(renderer, lead, rig=make_rig("3", width_px=333, height_px=187))["CAM_F0"]
    assert odd.rgb.shape == (187, 333, 3)


def test_wrong_input_is_named(renderer):
    with pytest.raises(ValueError, match="three finite numbers"):
        see(renderer, pose=np.array([0.0, np.nan, 0.0]))
    with pytest.raises(ValueError, match="uint8"):
        encode_jpeg(np.zeros((4, 4, 3)))
