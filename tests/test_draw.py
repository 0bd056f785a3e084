"""The scene from above, and the sheet of images."""

from dataclasses import replace

import numpy as np
import pytest
from builders import straight_map, tracked

from nsdrive.draw import EGO, LIGHT_COLORS, TRAJECTORY_COLORS, birds_eye, contact_sheet
from nsdrive.draw_choice import BLAMED, drawn_choice, score_color
from nsdrive.world.decision import Constraint, Decision, Proposal, Term, arg_min
from nsdrive.world.types import ObjectFrame, Plan

POSE = np.array([60.0, 0.0, 0.0])


def pixels_like(image, color, tolerance=12):
    return np.argwhere(np.abs(image.astype(int) - color).max(axis=2) <= tolerance)


def test_ahead_is_up_whatever_the_heading_of_the_ego():
    road = straight_map(200.0)
    for heading in (0.0, 1.0, 3.0):
        pose = np.array([60.0, 0.0, heading])
        ahead = pose[:2] + np.outer([10.0, 20.0, 30.0], [np.cos(heading), np.sin(heading)])
        image = birds_eye(road, pose, ObjectFrame.of([]), trajectories={"planner": ahead})
        ego, track = pixels_like(image, EGO)[50:], pixels_like(image, TRAJECTORY_COLORS[0])
        track = track[track[:, 1] > 200]  # not the legend
        assert track[:, 0].min() < ego[:, 0].mean() - 200
        assert abs(np.median(track[:, 1]) - image.shape[1] / 2) < 8


def test_an_object_to_the_left_is_drawn_left():
    road = straight_map(200.0)
    empty = birds_eye(road, POSE, ObjectFrame.of([]))
    full = birds_eye(road, POSE, ObjectFrame.of([tracked("a", 75.0, 8.0)]))
    changed = np.argwhere((full != empty).any(axis=2))
    assert len(changed) > 100
    assert (changed[:, 1] < full.shape[1] / 2).all()


def test_a_stop_line_carries_the_colour_of_its_light():
    road = straight_map(200.0, n_pieces=2, signal=True)
    connector = next(lane.lane_id for lane in road.lanes.values() if lane.stop_line_ids)
    for state in ("red", "green"):
        image = birds_eye(road, POSE, ObjectFrame.of([]), lights={connector: state})
        assert len(pixels_like(image, LIGHT_COLORS[state])) > 40


def test_same_input_same_picture_and_wrong_input_is_named():
    road = straight_map(200.0)
    frame = ObjectFrame.of([tracked("a", 75.0, 3.0)])
    assert (birds_eye(road, POSE, frame, labels=["a"]) == birds_eye(road, POSE, frame, labels=["a"])).all()
    with pytest.raises(ValueError, match="'planner' must be"):
        birds_eye(road, POSE, frame, trajectories={"planner": np.zeros(4)})
    with pytest.raises(ValueError, match="ego pose"):
        birds_eye(road, np.zeros(2), frame)


def test_proposals_are_drawn_by_score_and_who_is_blamed_is_named():
    terms = (Term(name="no_at_fault_collision", value=0.0, measured=1.0, about="a"), Term(name="progress", value=1.0))
    good = Proposal(path="keep", offset_m=0.0, speed_fraction=0.6, terms=terms[1:], score=1.0)
    bad = Proposal(path="keep", offset_m=-1.0, speed_fraction=1.0, terms=terms, score=0.0)
    ahead = np.linspace(0.0, 40.0, 41)
    paths = np.stack([np.column_stack([60.0 + ahead, np.full(41, y), np.zeros(41)]) for y in (0.0, -1.0, -6.0)])
    decision = arg_min([Constraint(rule="target_speed", about=None, inputs={}, threshold=10.0, allows_mps2=0.5)])
    plan = Plan(
        trajectory=None,
        decision=Decision(
            planner="p",
            time_s=0.0,
            speed_mps=9.0,
            accel_mps2=0.0,
            progress_m=0.0,
            lateral_offset_m=0.0,
            lane_id=None,
            constraints=decision[0],
            command_mps2=0.5,
            binding=0,
            proposals=(good, bad, bad),
            chosen=0,
            runner_up=1,
        ),
        candidates=paths,
    )
    frame = ObjectFrame.of([tracked("a", 90.0, 6.0), tracked("b", 90.0, 12.0)])
    choice = drawn_choice(plan, {"vehicle-1": "a", "vehicle-2": "b"})
    assert choice is not None
    assert choice.blamed == {"a": "vehicle-1"}
    image = birds_eye(straight_map(200.0), POSE, frame, choice=choice)
    road = image[200:]  # below the legend
    middle = image.shape[1] / 2
    assert abs(np.median(pixels_like(road, score_color(1.0))[:, 1]) - middle) < 3
    assert np.median(pixels_like(road, score_color(0.0))[:, 1]) > middle + 30
    assert pixels_like(road, BLAMED)[:, 1].min() < middle - 50
    assert drawn_choice(replace(plan, candidates=None), {}) is None


def test_a_contact_sheet_shows_every_image_once():
    names = ["CAM_F0", "CAM_R0", "CAM_L0", "CAM_R1", "CAM_L1", "CAM_R2", "CAM_L2", "CAM_B0", "ring_front"]
    images = {name: np.full((90, 160, 3), 20 * i + 40, dtype=np.uint8) for i, name in enumerate(names)}
    above = np.zeros((300, 240, 3), dtype=np.uint8)
    sheet = contact_sheet(images, birds_eye=above)
    for image in images.values():
        assert (sheet == image[0, 0]).all(axis=2).sum() > 5000
    assert contact_sheet({"CAM_F0": images["CAM_F0"]}).shape[2] == 3
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet({})
